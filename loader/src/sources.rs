//! Who may send, and how much: what a configuration can ask of XDP beside the protocol.

use ipnet::IpNet;

use crate::error::XdpError;

/// How much each source may send: a token bucket for every IP address, of either family.
/// Only valid datagrams take from it, and only those can be dropped for it
/// ([`crate::XdpReason::DroppedRate`]): junk is dropped anyway, and does not use up what
/// its alleged sender may send.
///
/// Who owns a network of IPv6 addresses has as many buckets as addresses; deny the
/// prefix. Sender addresses can be forged: a limit protects this machine from a flood,
/// and the buckets of others from it, but not one sender from another that uses his
/// address. Fragments pass by the limit, as they name no port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SourceLimit {
    /// Datagrams a second in the long run, 1 to 10,000,000. Kept to whole nanoseconds
    /// between two of them, rounded in favour of the source: up to 1 % more, if its packets
    /// arrive on one CPU. Where a card spreads them over several, two that come at the same
    /// moment may both pass where one was left: at most one more for each further CPU and
    /// interval.
    pub packets_per_second: u32,
    /// Datagrams that a source may send at once if it was silent before, 1 to 1,000,000.
    pub burst: u32,
}

impl SourceLimit {
    /// The highest rate.
    pub const MAX_PACKETS_PER_SECOND: u32 = 10_000_000;
    /// The largest burst.
    pub const MAX_BURST: u32 = 1_000_000;

    pub(crate) fn check(self) -> Result<(), XdpError> {
        let Self { packets_per_second, burst } = self;
        let refuse = |what, value, most| {
            let problem = format!("{what} {value} cannot be had: 1 to {most}");
            Err(XdpError::config("source_limit", problem))
        };
        if !(1..=Self::MAX_PACKETS_PER_SECOND).contains(&packets_per_second) {
            return refuse("packets_per_second", packets_per_second, Self::MAX_PACKETS_PER_SECOND);
        }
        if !(1..=Self::MAX_BURST).contains(&burst) {
            return refuse("burst", burst, Self::MAX_BURST);
        }
        Ok(())
    }

    /// Nanoseconds in which the bucket gains one packet.
    pub(crate) fn interval(self) -> u64 {
        1_000_000_000 / u64::from(self.packets_per_second.max(1))
    }

    /// Nanoseconds in which an empty bucket gains all but one packet.
    pub(crate) fn tolerance(self) -> u64 {
        u64::from(self.burst.saturating_sub(1)) * self.interval()
    }
}

/// Sources by prefix; bits behind the prefix do not matter. For packets to the filtered
/// ports only: everything else, and every fragment, passes by the lists.
///
/// ```
/// use laminar_xdp::SourceLists;
///
/// let lists = SourceLists {
///     deny: vec!["198.51.100.0/24".parse()?, "2001:db8:bad::/48".parse()?],
///     allow: vec!["192.0.2.7/32".parse()?],
/// };
/// # Ok::<(), ipnet::AddrParseError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SourceLists {
    /// What comes from these is dropped ([`crate::XdpReason::DroppedDenied`]), whatever it
    /// is, and before anything else is looked at.
    pub deny: Vec<IpNet>,
    /// These have no limit, unless they are denied.
    pub allow: Vec<IpNet>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_becomes_times() {
        let limit = SourceLimit { packets_per_second: 1000, burst: 5 };
        assert_eq!((limit.interval(), limit.tolerance()), (1_000_000, 4_000_000));
        let most = SourceLimit {
            packets_per_second: SourceLimit::MAX_PACKETS_PER_SECOND,
            burst: SourceLimit::MAX_BURST,
        };
        assert_eq!((most.interval(), most.tolerance()), (100, 99_999_900));
        let slowest = SourceLimit { packets_per_second: 1, burst: SourceLimit::MAX_BURST };
        assert_eq!(slowest.tolerance(), 999_999_000_000_000);
    }

    #[test]
    fn limits_that_cannot_be_kept_are_refused() {
        let most = SourceLimit {
            packets_per_second: SourceLimit::MAX_PACKETS_PER_SECOND,
            burst: SourceLimit::MAX_BURST,
        };
        most.check().unwrap();
        for bad in [
            SourceLimit { packets_per_second: 0, ..most },
            SourceLimit { packets_per_second: most.packets_per_second + 1, ..most },
            SourceLimit { burst: 0, ..most },
            SourceLimit { burst: most.burst + 1, ..most },
        ] {
            let error = bad.check().unwrap_err().to_string();
            assert!(error.contains("cannot be had: 1 to"), "{error}");
        }
    }
}
