//! What the program counted.

use laminar_xdp_prebuilt::abi;

/// Packets by verdict and reason, since the program was loaded, summed over all
/// CPUs. Each of the four totals is the sum of its reasons. Packets that are not
/// UDP, and whole ones to another port, are not counted; fragments and malformed
/// packets are, as their port cannot be read.
///
/// The counters are read one after the other while packets arrive, so two of
/// them need not belong to the same instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct XdpStats {
    /// Dropped: sent to the port, but not LaminarDB's protocol.
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
    pub(crate) fn read<E>(mut counter: impl FnMut(u32) -> Result<u64, E>) -> Result<Self, E> {
        let dropped_short = counter(abi::LAMINAR_REASON_DROPPED_SHORT)?;
        let dropped_magic = counter(abi::LAMINAR_REASON_DROPPED_MAGIC)?;
        let dropped_length = counter(abi::LAMINAR_REASON_DROPPED_LENGTH)?;
        let passed_fragment = counter(abi::LAMINAR_REASON_PASSED_FRAGMENT)?;
        let passed_no_queue = counter(abi::LAMINAR_REASON_PASSED_NO_QUEUE)?;
        Ok(Self {
            dropped: dropped_short + dropped_magic + dropped_length,
            passed: passed_fragment + passed_no_queue,
            redirected: counter(abi::LAMINAR_REASON_REDIRECTED)?,
            invalid: counter(abi::LAMINAR_REASON_INVALID)?,
            dropped_short,
            dropped_magic,
            dropped_length,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_is_read_once_and_reaches_one_total() {
        let mut seen = Vec::new();
        let stats = XdpStats::read(|reason| {
            seen.push(reason);
            Ok::<_, ()>(1 << (8 * reason))
        })
        .unwrap();
        seen.sort_unstable();
        // The last ones are the sockets' own.
        assert_eq!(seen, (0..abi::LAMINAR_REASON_ACCEPTED).collect::<Vec<_>>());
        assert_eq!(stats.total(), 0x01_01_01_01_01_01_01);
    }
}
