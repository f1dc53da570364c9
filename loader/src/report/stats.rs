//! The table of reasons, and the counters that follow from it.
//!
//! A row of [`reasons!`] is the only place where Rust names a reason: the row gives the variant
//! of [`XdpReason`] and the field of [`XdpStats`]. Reading, sums and printing loop over the
//! rows. A number of `enum laminar_reason` (`bpf-src/laminar_abi.h`) without a row, and a row
//! with a wrong verdict, are compile errors.

use std::fmt;
use std::ops::{Add, Sub};
use std::str::FromStr;

use laminar_xdp_prebuilt::{Layer, abi};

/// The decision about a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum XdpVerdict {
    /// The packet goes on: to the kernel's network stack, or into the socket.
    Passed,
    /// The packet is thrown away.
    Dropped,
    /// The packet goes to the queue of another CPU.
    Redirected,
}

impl XdpVerdict {
    /// The verdict of a reason's number, also if this library does not know the reason.
    /// `verdict_of()` in `bpf-src/verdict.h` is the same function.
    pub const fn of_number(number: u32) -> XdpVerdict {
        match number {
            0..abi::LAMINAR_FIRST_DROP_REASON => XdpVerdict::Passed,
            abi::LAMINAR_FIRST_DROP_REASON..abi::LAMINAR_FIRST_REDIRECT_REASON => {
                XdpVerdict::Dropped
            }
            abi::LAMINAR_FIRST_REDIRECT_REASON.. => XdpVerdict::Redirected,
        }
    }
}

impl fmt::Display for XdpVerdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            XdpVerdict::Passed => "passed",
            XdpVerdict::Dropped => "dropped",
            XdpVerdict::Redirected => "redirected",
        })
    }
}

macro_rules! reasons {
    ($(
        $(#[$doc:meta])*
        $reason:ident, $field:ident, $number:ident, $verdict:ident by $($layer:ident)+;
    )*) => {
        /// Why a packet got its verdict.
        ///
        /// `XdpReason::ALL` with [`XdpStats::get`] lists every counter, so an exporter does
        /// not miss a reason of a later release.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum XdpReason {
            $($(#[$doc])* $reason,)*
        }

        impl XdpReason {
            /// Every reason.
            pub const ALL: &[XdpReason] = &[$(XdpReason::$reason),*];

            /// The reason's name, which is also the name of its field in [`XdpStats`].
            pub const fn name(self) -> &'static str {
                match self { $(XdpReason::$reason => stringify!($field),)* }
            }

            /// The reason's number in the programs. [`laminar_xdp_prebuilt::schema::stats_key`]
            /// makes the key of the counter in the map `stats` from it.
            pub const fn number(self) -> u32 {
                match self { $(XdpReason::$reason => abi::$number,)* }
            }

            /// The verdict that follows from the reason.
            pub const fn verdict(self) -> XdpVerdict {
                match self { $(XdpReason::$reason => XdpVerdict::$verdict,)* }
            }

            /// The layers whose programs count this reason.
            pub const fn layers(self) -> &'static [Layer] {
                match self { $(XdpReason::$reason => &[$(Layer::$layer),+],)* }
            }
        }

        /// Packets by verdict and reason since the program was loaded, summed over all CPUs.
        ///
        /// The four totals are `dropped`, `passed`, `redirected` and `invalid`. Packets that
        /// are not UDP, and whole packets to another port, are not counted. Fragments and
        /// malformed packets are counted, because their port cannot be read.
        ///
        /// The counters are read one after the other while packets arrive, so two counters
        /// may belong to different moments.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
        #[non_exhaustive]
        pub struct XdpStats {
            /// Total of the drops: the sum of the fields `dropped_*`.
            pub dropped: u64,
            /// Total of the packets that the kernel processed on the CPU where they arrived:
            /// the sum of the fields `passed_*`.
            pub passed: u64,
            $($(#[$doc])* pub $field: u64,)*
            /// Dropped by the classic BPF filter of a socket, which cannot count by reason.
            /// Includes datagrams that found the receive buffer full. 0 wherever the kernel
            /// loads the sockets' object.
            pub dropped_unsorted: u64,
            /// Counted for a reason that this library does not know, because the object is
            /// newer. In none of the four totals, but in [`XdpStats::total`].
            pub unknown_reason: u64,
        }

        impl XdpStats {
            /// The counter of one reason.
            pub fn get(&self, reason: XdpReason) -> u64 {
                match reason { $(XdpReason::$reason => self.$field,)* }
            }

            fn get_mut(&mut self, reason: XdpReason) -> &mut u64 {
                match reason { $(XdpReason::$reason => &mut self.$field,)* }
            }

            /// Combines each counter with the same counter of `other`.
            fn combine(self, other: XdpStats, with: fn(u64, u64) -> u64) -> XdpStats {
                XdpStats {
                    dropped: with(self.dropped, other.dropped),
                    passed: with(self.passed, other.passed),
                    $($field: with(self.$field, other.$field),)*
                    dropped_unsorted: with(self.dropped_unsorted, other.dropped_unsorted),
                    unknown_reason: with(self.unknown_reason, other.unknown_reason),
                }
            }
        }
    };
}

// In the order of `enum laminar_reason`.
reasons! {
    /// Passed: too malformed to judge. One of the four totals, and no part of `passed`.
    Invalid, invalid, LAMINAR_REASON_INVALID, Passed by Xdp;
    /// Passed: a fragment of a UDP datagram to any port.
    PassedFragment, passed_fragment, LAMINAR_REASON_PASSED_FRAGMENT, Passed by Xdp;
    /// Passed: valid, but the partition has no owner, or the owner's CPU has no queue.
    PassedNoQueue, passed_no_queue, LAMINAR_REASON_PASSED_NO_QUEUE, Passed by Xdp;
    /// Passed by the filters of sockets: valid. In no total, because XDP counted the packet
    /// before the socket.
    Accepted, accepted, LAMINAR_REASON_ACCEPTED, Passed by Sockets;
    /// Dropped: the payload is shorter than a header.
    DroppedShort, dropped_short, LAMINAR_REASON_DROPPED_SHORT, Dropped by Xdp Sockets;
    /// Dropped: the magic is wrong.
    DroppedMagic, dropped_magic, LAMINAR_REASON_DROPPED_MAGIC, Dropped by Xdp Sockets;
    /// Dropped: the payload length is not the number of bytes that follow the header.
    DroppedLength, dropped_length, LAMINAR_REASON_DROPPED_LENGTH, Dropped by Xdp Sockets;
    /// Dropped by the filters of sockets: sent to a broadcast or multicast address. The kernel
    /// gives each socket a copy, and each copy is counted.
    DroppedMulticast, dropped_multicast, LAMINAR_REASON_DROPPED_MULTICAST, Dropped by Sockets;
    /// Dropped: the source is denied ([`crate::SourceLists`]).
    DroppedDenied, dropped_denied, LAMINAR_REASON_DROPPED_DENIED, Dropped by Xdp;
    /// Dropped: valid, but the source sent more than its limit ([`crate::SourceLimit`]).
    DroppedRate, dropped_rate, LAMINAR_REASON_DROPPED_RATE, Dropped by Xdp;
    /// Redirected: put into the queue of the CPU that owns the partition. A full queue loses
    /// packets after this count. One of the four totals.
    Redirected, redirected, LAMINAR_REASON_REDIRECTED, Redirected by Xdp;
}

const _: () = {
    let mut at = 0;
    while at < abi::LAMINAR_REASONS.len() {
        let (name, number) = abi::LAMINAR_REASONS[at];
        if XdpReason::from_number(number).is_none() {
            panic!("{}", name); // This reason of enum laminar_reason has no row in `reasons!`.
        }
        at += 1;
    }
    at = 0;
    while at < XdpReason::ALL.len() {
        let reason = XdpReason::ALL[at];
        let number = reason.number();
        if number >= abi::LAMINAR_MAX_REASONS
            || XdpVerdict::of_number(number) as u8 != reason.verdict() as u8
        {
            panic!("{}", reason.name()); // The row's verdict is not that of the number's range.
        }
        match XdpReason::from_number(number) {
            Some(first) if first as u8 == reason as u8 => {}
            _ => panic!("{}", reason.name()), // Two rows have the same number.
        }
        at += 1;
    }
};

impl XdpReason {
    /// The reason with this number in the programs; `None` if this library does not know it.
    pub(crate) const fn from_number(number: u32) -> Option<XdpReason> {
        let mut at = 0;
        while at < Self::ALL.len() {
            if Self::ALL[at].number() == number {
                return Some(Self::ALL[at]);
            }
            at += 1;
        }
        None
    }
}

impl fmt::Display for XdpReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl serde::Serialize for XdpReason {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl FromStr for XdpReason {
    type Err = UnknownReason;

    fn from_str(name: &str) -> Result<XdpReason, UnknownReason> {
        let named = XdpReason::ALL.iter().copied().find(|reason| reason.name() == name);
        named.ok_or_else(|| UnknownReason(name.into()))
    }
}

/// No [`XdpReason`] has this name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no reason has the name {0:?}")]
pub struct UnknownReason(pub String);

/// One counter for each reason's number, known or not.
pub(crate) type Counters = [u64; abi::LAMINAR_MAX_REASONS as usize];

impl XdpStats {
    pub(crate) fn of(counters: &Counters) -> Self {
        let mut stats = Self::default();
        (0..).zip(counters).for_each(|(number, packets)| stats.count(number, *packets));
        stats
    }

    fn count(&mut self, number: u32, packets: u64) {
        let Some(reason) = XdpReason::from_number(number) else {
            self.unknown_reason += packets;
            return;
        };
        *self.get_mut(reason) += packets;
        match reason.verdict() {
            XdpVerdict::Dropped => self.dropped += packets,
            // Its field is the total.
            XdpVerdict::Redirected => {}
            XdpVerdict::Passed if reason == XdpReason::Invalid => {}
            // XDP has counted a packet that reaches a socket.
            XdpVerdict::Passed if !reason.layers().contains(&Layer::Xdp) => {}
            XdpVerdict::Passed => self.passed += packets,
        }
    }

    /// All packets that were judged: the four totals and `unknown_reason`.
    pub fn total(&self) -> u64 {
        self.dropped + self.passed + self.redirected + self.invalid + self.unknown_reason
    }
}

impl Add for XdpStats {
    type Output = XdpStats;

    /// The sum of each counter, for example over interfaces.
    fn add(self, other: XdpStats) -> XdpStats {
        self.combine(other, u64::saturating_add)
    }
}

impl Sub for XdpStats {
    type Output = XdpStats;

    /// The increase of each counter since `earlier`. A counter that became smaller, because
    /// another program was loaded, gives 0.
    fn sub(self, earlier: XdpStats) -> XdpStats {
        self.combine(earlier, u64::saturating_sub)
    }
}

/// Shows one counter a line, as `name=value`: the four totals first.
impl fmt::Display for XdpStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let XdpStats { dropped, passed, redirected, invalid, .. } = self;
        write!(
            f,
            "dropped={dropped}\npassed={passed}\nredirected={redirected}\ninvalid={invalid}"
        )?;
        for reason in XdpReason::ALL {
            // Two are totals. The third belongs to sockets: `IngestStats` shows it.
            if let XdpReason::Redirected | XdpReason::Invalid | XdpReason::Accepted = reason {
                continue;
            }
            write!(f, "\n{reason}={}", self.get(*reason))?;
        }
        write!(f, "\ndropped_unsorted={}", self.dropped_unsorted)?;
        write!(f, "\nunknown_reason={}", self.unknown_reason)
    }
}

/// The counter of one reason on one CPU since the program was loaded.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct XdpCounter {
    /// The interface of the XDP program. `None` for the filters of sockets.
    pub interface: Option<String>,
    /// Why the packets got their verdict.
    pub reason: XdpReason,
    /// The CPU on which the packets arrived.
    pub cpu: u32,
    /// Number of packets.
    pub packets: u64,
    /// Number of bytes. XDP counts frames from the Ethernet header on, with padding and
    /// without checksum; if a packet is in several buffers, the bytes after the end of its
    /// datagram may be missing. Sockets count datagrams from the UDP header on.
    pub bytes: u64,
}

impl XdpCounter {
    /// A counter, for example to test an exporter. `interface` is `None` for sockets.
    pub fn new(
        interface: Option<&str>,
        reason: XdpReason,
        cpu: u32,
        packets: u64,
        bytes: u64,
    ) -> XdpCounter {
        XdpCounter { interface: interface.map(String::from), reason, cpu, packets, bytes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counter `n` holds `2^n`, so each sum shows its parts.
    fn powers() -> Counters {
        std::array::from_fn(|number| 1 << number)
    }

    #[test]
    fn every_number_is_read_into_one_field() {
        let (counters, stats) = (powers(), XdpStats::of(&powers()));
        let mut known = 0;
        for reason in XdpReason::ALL {
            assert_eq!(stats.get(*reason), counters[reason.number() as usize], "{reason}");
            known += stats.get(*reason);
        }
        assert_eq!(stats.unknown_reason, u64::MAX - known);
        assert_eq!(stats.dropped_unsorted, 0);
    }

    #[test]
    fn every_reason_is_part_of_one_total() {
        let stats = XdpStats::of(&powers());
        let sum = |prefix: &str| -> u64 {
            let reasons = XdpReason::ALL.iter().filter(|reason| reason.name().starts_with(prefix));
            reasons.map(|reason| stats.get(*reason)).sum()
        };
        assert_eq!((stats.dropped, stats.passed), (sum("dropped_"), sum("passed_")));
        assert_eq!(stats.total(), u64::MAX - stats.accepted);
    }

    #[test]
    fn an_unknown_reason_is_counted_in_no_total_but_the_sum() {
        let mut counters = [0; abi::LAMINAR_MAX_REASONS as usize];
        counters[abi::LAMINAR_FIRST_REDIRECT_REASON as usize - 1] = 7;
        let stats = XdpStats::of(&counters);
        assert_eq!(stats, XdpStats { unknown_reason: 7, ..XdpStats::default() });
        assert_eq!(stats.total(), 7);
    }

    #[test]
    fn names_are_read_back_and_tell_the_verdict() {
        for &reason in XdpReason::ALL {
            assert_eq!(reason.name().parse(), Ok(reason));
            let starts_with = |prefix| reason.name().starts_with(prefix);
            assert_eq!(starts_with("dropped_"), reason.verdict() == XdpVerdict::Dropped);
            assert_eq!(starts_with("redirected"), reason.verdict() == XdpVerdict::Redirected);
        }
        assert_eq!("Invalid".parse::<XdpReason>(), Err(UnknownReason("Invalid".into())));
    }

    #[test]
    fn differences_and_sums_cover_every_counter() {
        let stats = XdpStats::of(&powers());
        assert_eq!(stats - XdpStats::default(), stats);
        assert_eq!(stats - stats, XdpStats::default());
        assert_eq!(XdpStats::default() - stats, XdpStats::default());
        assert_eq!(stats + XdpStats::default(), stats);
        let once = XdpStats { dropped_unsorted: 1, unknown_reason: 2, ..XdpStats::default() };
        let twice = XdpStats { dropped_unsorted: 2, unknown_reason: 4, ..XdpStats::default() };
        assert_eq!(once + once, twice);
    }

    #[test]
    fn every_counter_is_printed_once() {
        let text = XdpStats::of(&powers()).to_string();
        let mut names: Vec<_> = text.lines().filter_map(|line| line.split('=').next()).collect();
        assert_eq!(names[..4], ["dropped", "passed", "redirected", "invalid"]);
        assert!(text.contains("\nunknown_reason=") && text.contains("\ndropped_short=65536\n"));
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), text.lines().count());
        let json = serde_json::to_value(XdpStats::default()).unwrap();
        let json = json.as_object().unwrap();
        names.push("accepted");
        assert_eq!(names.len(), json.len());
        assert!(names.iter().all(|name| json.contains_key(*name)));
    }
}
