//! What the program counted.

use std::fmt;

use laminar_xdp_prebuilt::abi;

/// Packets by verdict and reason, since the program was loaded, summed over all
/// CPUs. Each of the four totals is the sum of its reasons. Packets that are not
/// UDP, and whole ones to another port, are not counted; fragments and malformed
/// packets are, as their port cannot be read.
///
/// The counters are read one after the other while packets arrive, so two of
/// them need not belong to the same instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
#[non_exhaustive]
pub struct XdpStats {
    /// Dropped: sent to one of the ports, and not LaminarDB's protocol, or from a source that
    /// is denied or beyond its limit.
    pub dropped: u64,
    /// Handed to the kernel on the CPU where they arrived.
    pub passed: u64,
    /// Put into the queue of the CPU that owns their partition. A full queue
    /// loses packets after this count.
    pub redirected: u64,
    /// Handed to the kernel because they are too malformed to be judged.
    pub invalid: u64,

    /// Part of `dropped`: payload shorter than a header.
    pub dropped_short: u64,
    /// Part of `dropped`: wrong magic.
    pub dropped_magic: u64,
    /// Part of `dropped`: the payload length is not what the datagram carries.
    pub dropped_length: u64,
    /// Part of `dropped`: the source is denied ([`crate::SourceLists`]).
    pub dropped_denied: u64,
    /// Part of `dropped`: valid, but beyond what the source may send
    /// ([`crate::SourceLimit`]).
    pub dropped_rate: u64,
    /// Part of `dropped`: to a broadcast or multicast address, by the filters of sockets.
    /// The kernel gives each socket a copy, so each such datagram counts as often.
    pub dropped_multicast: u64,
    /// Part of `dropped`: by the classic filter of a socket, which cannot say why; zero
    /// wherever programs can be loaded. Among them are datagrams that found a socket's
    /// buffer full.
    pub dropped_unsorted: u64,
    /// Part of `passed`: a fragment of a UDP datagram to any port.
    pub passed_fragment: u64,
    /// Part of `passed`: valid, but its partition has no owner, or the owner's
    /// CPU no queue.
    pub passed_no_queue: u64,
}

impl XdpStats {
    /// Builds the statistics from a function that reads one reason's counter.
    pub(crate) fn read<E>(mut counter: impl FnMut(XdpReason) -> Result<u64, E>) -> Result<Self, E> {
        let dropped_short = counter(XdpReason::DroppedShort)?;
        let dropped_magic = counter(XdpReason::DroppedMagic)?;
        let dropped_length = counter(XdpReason::DroppedLength)?;
        let dropped_denied = counter(XdpReason::DroppedDenied)?;
        let dropped_rate = counter(XdpReason::DroppedRate)?;
        let passed_fragment = counter(XdpReason::PassedFragment)?;
        let passed_no_queue = counter(XdpReason::PassedNoQueue)?;
        Ok(Self {
            dropped: dropped_short + dropped_magic + dropped_length + dropped_denied + dropped_rate,
            passed: passed_fragment + passed_no_queue,
            redirected: counter(XdpReason::Redirected)?,
            invalid: counter(XdpReason::Invalid)?,
            dropped_short,
            dropped_magic,
            dropped_length,
            dropped_denied,
            dropped_rate,
            dropped_multicast: 0,
            dropped_unsorted: 0,
            passed_fragment,
            passed_no_queue,
        })
    }

    /// All packets that were judged: the sum of the four totals.
    pub fn total(&self) -> u64 {
        self.dropped + self.passed + self.redirected + self.invalid
    }
}

impl fmt::Display for XdpStats {
    /// One counter a line: its name and its value.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "dropped {}", self.dropped)?;
        write!(f, "\npassed {}", self.passed)?;
        write!(f, "\nredirected {}", self.redirected)?;
        write!(f, "\ninvalid {}", self.invalid)?;
        write!(f, "\ndropped_short {}", self.dropped_short)?;
        write!(f, "\ndropped_magic {}", self.dropped_magic)?;
        write!(f, "\ndropped_length {}", self.dropped_length)?;
        write!(f, "\ndropped_denied {}", self.dropped_denied)?;
        write!(f, "\ndropped_rate {}", self.dropped_rate)?;
        write!(f, "\ndropped_multicast {}", self.dropped_multicast)?;
        write!(f, "\ndropped_unsorted {}", self.dropped_unsorted)?;
        write!(f, "\npassed_fragment {}", self.passed_fragment)?;
        write!(f, "\npassed_no_queue {}", self.passed_no_queue)?;
        Ok(())
    }
}

/// What was counted between two readings.
impl std::ops::Sub for XdpStats {
    type Output = XdpStats;

    fn sub(self, earlier: XdpStats) -> XdpStats {
        XdpStats {
            dropped: self.dropped.saturating_sub(earlier.dropped),
            passed: self.passed.saturating_sub(earlier.passed),
            redirected: self.redirected.saturating_sub(earlier.redirected),
            invalid: self.invalid.saturating_sub(earlier.invalid),
            dropped_short: self.dropped_short.saturating_sub(earlier.dropped_short),
            dropped_magic: self.dropped_magic.saturating_sub(earlier.dropped_magic),
            dropped_length: self.dropped_length.saturating_sub(earlier.dropped_length),
            dropped_denied: self.dropped_denied.saturating_sub(earlier.dropped_denied),
            dropped_rate: self.dropped_rate.saturating_sub(earlier.dropped_rate),
            dropped_multicast: self.dropped_multicast.saturating_sub(earlier.dropped_multicast),
            dropped_unsorted: self.dropped_unsorted.saturating_sub(earlier.dropped_unsorted),
            passed_fragment: self.passed_fragment.saturating_sub(earlier.passed_fragment),
            passed_no_queue: self.passed_no_queue.saturating_sub(earlier.passed_no_queue),
        }
    }
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $reason:ident $name:literal $number:ident;)*) => {
        /// Why XDP gave a packet its verdict.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum XdpReason {
            $($(#[$doc])* $reason,)*
        }

        impl XdpReason {
            /// Every reason.
            pub const ALL: &[XdpReason] = &[$(XdpReason::$reason),*];

            /// Its name, which is that of its counter in [`XdpStats`].
            pub fn name(self) -> &'static str {
                match self { $(XdpReason::$reason => $name,)* }
            }

            /// The program's number for it.
            pub(crate) fn number(self) -> u32 {
                match self { $(XdpReason::$reason => abi::$number,)* }
            }
        }
    };
}

reasons! {
    /// Passed: too malformed to be judged.
    Invalid "invalid" LAMINAR_REASON_INVALID;
    /// Passed: a fragment of UDP.
    PassedFragment "passed_fragment" LAMINAR_REASON_PASSED_FRAGMENT;
    /// Passed: valid, but no owner or no queue.
    PassedNoQueue "passed_no_queue" LAMINAR_REASON_PASSED_NO_QUEUE;
    /// Dropped: shorter than a header.
    DroppedShort "dropped_short" LAMINAR_REASON_DROPPED_SHORT;
    /// Dropped: wrong magic.
    DroppedMagic "dropped_magic" LAMINAR_REASON_DROPPED_MAGIC;
    /// Dropped: wrong payload length.
    DroppedLength "dropped_length" LAMINAR_REASON_DROPPED_LENGTH;
    /// Dropped: the source is denied.
    DroppedDenied "dropped_denied" LAMINAR_REASON_DROPPED_DENIED;
    /// Dropped: beyond the source's limit.
    DroppedRate "dropped_rate" LAMINAR_REASON_DROPPED_RATE;
    /// Redirected to the partition's owner.
    Redirected "redirected" LAMINAR_REASON_REDIRECTED;
}

impl XdpReason {
    /// The reason with the program's number.
    pub(crate) fn of_number(number: u32) -> Option<XdpReason> {
        Self::ALL.iter().copied().find(|reason| reason.number() == number)
    }
}

impl fmt::Display for XdpReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl serde::Serialize for XdpReason {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// What XDP counted for one reason on one CPU since the program was loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct XdpCounter {
    /// Why the packets got their verdict.
    pub reason: XdpReason,
    /// The CPU that they arrived on.
    pub cpu: u32,
    /// Packets.
    pub packets: u64,
    /// Bytes of their frames, from the Ethernet header on, with padding and without
    /// checksum. Of a packet in several buffers those behind the end of the datagram need
    /// not be counted.
    pub bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_is_a_reason_or_the_sockets_own() {
        let of_sockets = [abi::LAMINAR_REASON_ACCEPTED, abi::LAMINAR_REASON_DROPPED_MULTICAST];
        for number in 0..abi::LAMINAR_REASON_COUNT {
            let reason = XdpReason::of_number(number);
            assert_eq!(reason.is_none(), of_sockets.contains(&number), "{number}");
        }
        assert_eq!(XdpReason::of_number(abi::LAMINAR_REASON_COUNT), None);
    }

    #[test]
    fn every_reason_is_read_once_and_reaches_one_total() {
        let mut seen = Vec::new();
        let stats = XdpStats::read(|reason| {
            seen.push(reason);
            Ok::<_, ()>(1 << (4 * reason.number()))
        })
        .unwrap();
        seen.sort_unstable();
        assert_eq!(seen, XdpReason::ALL);
        // Those of 7 and 8 are the sockets' own.
        assert_eq!(stats.total(), 0x110_0111_1111);
    }
}
