//! Limits and lists of sources, which XDP enforces.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::config::ConfigError;

/// How many datagrams each source may send. XDP keeps a token bucket for every IPv4 and IPv6
/// address.
///
/// Only valid datagrams take tokens, and only valid datagrams are dropped because of the limit
/// ([`XdpReason::DroppedRate`](crate::XdpReason::DroppedRate)). Invalid datagrams are always
/// dropped and take no tokens. A sender that forges the address of another source in invalid
/// datagrams therefore uses up no token of that source. The limit does not apply to fragments,
/// because their port cannot be read.
///
/// A sender that owns an IPv6 network has one bucket for each of its addresses. A limit hardly
/// affects such a sender; deny the prefix of the network instead. Sender addresses can be forged. A
/// limit protects this machine and the buckets of other sources from a flood. A limit does not
/// protect a source from a sender that forges the address of that source in valid datagrams.
///
/// Minimum kernel: Linux 5.9.
///
/// ```
/// use laminar_xdp::SourceLimit;
///
/// let limit = SourceLimit::per_second(10_000); // bursts of up to 10,000 datagrams
/// let smooth = SourceLimit::per_second(10_000).burst(100);
/// assert_eq!((limit.burst, smooth.burst), (10_000, 100));
/// ```
///
/// In a file `burst` may be left out. `burst` then has the default of [`SourceLimit::per_second`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "SourceLimitInFile")]
#[non_exhaustive]
pub struct SourceLimit {
    /// Datagrams per second in the long run, 1 to 10,000,000.
    ///
    /// The program stores the interval between two datagrams in whole nanoseconds, rounded down. A
    /// source may therefore send up to 1 % more than this rate. If the network card spreads the
    /// packets of a source over several CPUs, two packets that arrive at the same moment may both
    /// pass with one token. In each interval, this allows at most one further packet for each
    /// additional CPU.
    pub packets_per_second: u32,
    /// Datagrams that a source may send at once after a pause, 1 to 1,000,000.
    pub burst: u32,
}

/// The form of a limit in a file.
#[derive(Deserialize)]
#[serde(rename = "SourceLimit", deny_unknown_fields)]
struct SourceLimitInFile {
    packets_per_second: u32,
    burst: Option<u32>,
}

impl From<SourceLimitInFile> for SourceLimit {
    fn from(file: SourceLimitInFile) -> SourceLimit {
        let limit = SourceLimit::per_second(file.packets_per_second);
        file.burst.map_or(limit, |burst| limit.burst(burst))
    }
}

impl SourceLimit {
    /// The highest rate in datagrams per second.
    pub const MAX_PACKETS_PER_SECOND: u32 = 10_000_000;
    /// The largest burst in datagrams.
    pub const MAX_BURST: u32 = 1_000_000;

    /// Limits each source to a rate in datagrams per second. The burst is the number of
    /// datagrams of one second, but at most [`SourceLimit::MAX_BURST`].
    ///
    /// The values are checked when the limit is used, not here.
    #[must_use]
    pub const fn per_second(packets_per_second: u32) -> Self {
        let capped = packets_per_second > Self::MAX_BURST;
        let burst = if capped { Self::MAX_BURST } else { packets_per_second };
        Self { packets_per_second, burst }
    }

    /// Sets how many datagrams a source may send at once after a pause.
    #[must_use]
    pub const fn burst(mut self, burst: u32) -> Self {
        self.burst = burst;
        self
    }

    pub(crate) fn check(self) -> Result<(), ConfigError> {
        for (name, value, max) in [
            ("packets_per_second", self.packets_per_second, Self::MAX_PACKETS_PER_SECOND),
            ("burst", self.burst, Self::MAX_BURST),
        ] {
            if !(1..=max).contains(&value) {
                let problem = format!("{name} {value} is out of range; use 1 to {max}");
                return Err(ConfigError::new("source_limit", problem));
            }
        }
        Ok(())
    }

    /// The time in nanoseconds in which a bucket gains one token.
    pub(crate) fn interval(self) -> u64 {
        1_000_000_000 / u64::from(self.packets_per_second.max(1))
    }

    /// The time in nanoseconds in which an empty bucket gains all of its tokens but one.
    pub(crate) fn tolerance(self) -> u64 {
        u64::from(self.burst.saturating_sub(1)) * self.interval()
    }
}

/// Prefixes of sources that XDP denies, and prefixes of sources that have no limit.
///
/// Address bits after the prefix length are ignored. The lists apply to packets to the filtered
/// ports. The lists do not apply to fragments, because the port of a fragment cannot be read.
///
/// Minimum kernel: Linux 5.9.
///
/// ```
/// use laminar_xdp::SourceLists;
///
/// let lists = SourceLists::new()
///     .deny(["198.51.100.0/24".parse()?, "2001:db8:bad::/48".parse()?])
///     .allow(["192.0.2.7/32".parse()?]);
/// assert_eq!((lists.deny.len(), lists.allow.len()), (2, 1));
/// # Ok::<(), ipnet::AddrParseError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct SourceLists {
    /// Packets from these prefixes are dropped, before the program looks at their payload
    /// ([`XdpReason::DroppedDenied`](crate::XdpReason::DroppedDenied)).
    pub deny: Vec<IpNet>,
    /// Sources in these prefixes have no limit. A source that is also denied stays denied.
    pub allow: Vec<IpNet>,
}

impl SourceLists {
    /// Returns two empty lists. If the configuration contains such empty lists, prefixes can be
    /// added while the program runs.
    pub fn new() -> Self {
        Self::default()
    }

    /// Replaces the list of denied prefixes.
    #[must_use]
    pub fn deny(mut self, prefixes: impl IntoIterator<Item = IpNet>) -> Self {
        self.deny = prefixes.into_iter().collect();
        self
    }

    /// Replaces the list of prefixes that have no limit.
    #[must_use]
    pub fn allow(mut self, prefixes: impl IntoIterator<Item = IpNet>) -> Self {
        self.allow = prefixes.into_iter().collect();
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX_RATE: u32 = SourceLimit::MAX_PACKETS_PER_SECOND;
    const MAX_BURST: u32 = SourceLimit::MAX_BURST;

    #[test]
    fn a_limit_is_converted_to_times() {
        let limit = SourceLimit::per_second(1000).burst(5);
        assert_eq!((limit.interval(), limit.tolerance()), (1_000_000, 4_000_000));
        let largest = SourceLimit::per_second(MAX_RATE).burst(MAX_BURST);
        assert_eq!((largest.interval(), largest.tolerance()), (100, 99_999_900));
        let slowest = SourceLimit::per_second(1).burst(MAX_BURST);
        assert_eq!(slowest.tolerance(), 999_999_000_000_000);
    }

    #[test]
    fn values_out_of_range_are_refused() {
        let largest = SourceLimit::per_second(MAX_RATE);
        largest.check().unwrap();
        for bad in [
            SourceLimit { packets_per_second: 0, ..largest },
            SourceLimit { packets_per_second: MAX_RATE + 1, ..largest },
            largest.burst(0),
            largest.burst(MAX_BURST + 1),
        ] {
            let error = bad.check().unwrap_err();
            assert_eq!(error.field(), "source_limit");
            assert!(error.problem().contains("out of range; use 1 to"), "{error}");
        }
    }

    #[test]
    fn default_burst_is_one_second_of_datagrams_up_to_the_largest_burst() {
        assert_eq!(SourceLimit::per_second(5000).burst, 5000);
        assert_eq!(SourceLimit::per_second(MAX_RATE).burst, MAX_BURST);
        let file: SourceLimit = toml::from_str("packets_per_second = 5000").unwrap();
        assert_eq!(file, SourceLimit::per_second(5000));
        assert!(toml::from_str::<SourceLimit>("burst = 5").is_err());
    }

    #[test]
    fn lists_and_limits_survive_serde_round_trips() {
        let limit = SourceLimit::per_second(7).burst(3);
        let text = serde_json::to_string(&limit).unwrap();
        assert_eq!(serde_json::from_str::<SourceLimit>(&text).unwrap(), limit);
        let prefixes = ["198.51.100.0/24", "2001:db8::/32"].map(|text| text.parse().unwrap());
        let lists = SourceLists::new().deny(prefixes).allow(prefixes);
        let text = serde_json::to_string(&lists).unwrap();
        assert!(text.contains("\"198.51.100.0/24\""), "{text}");
        assert_eq!(serde_json::from_str::<SourceLists>(&text).unwrap(), lists);
    }
}
