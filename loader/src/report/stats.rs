//! The counters of the programs. The table in `reason` defines their fields.

use std::fmt;
use std::ops::{Add, Sub};

use laminar_xdp_prebuilt::{Layer, abi};

use crate::report::reason::{XdpReason, XdpVerdict, with_reasons};

macro_rules! define_stats {
    ($(
        $(#[$doc:meta])*
        $reason:ident, $field:ident, $number:ident, $verdict:ident by $($layer:ident)+;
    )*) => {
        /// Packets by verdict and reason since the program was loaded, summed over all CPUs.
        ///
        /// The four totals are `dropped`, `passed`, `redirected` and `invalid`. Packets that
        /// are not UDP, and whole packets to another port, are not counted. Fragments and
        /// malformed packets are counted for every port, because their port cannot be read.
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
            /// Dropped by the classic BPF filter of a socket. A classic filter cannot count by
            /// reason, so this counter includes datagrams that were lost because the receive
            /// buffer was full. The counter is 0 if the kernel loads the sockets' object, because
            /// the sockets then have eBPF filters.
            pub dropped_unsorted: u64,
            /// Packets with a reason that this library does not know, because the object is
            /// newer. Not part of the four totals, but part of [`XdpStats::total`].
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
with_reasons!(define_stats);

/// One counter for each reason number, including numbers that this library does not know.
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
            // The field `redirected` is the total already.
            XdpVerdict::Redirected => {}
            XdpVerdict::Passed if reason == XdpReason::Invalid => {}
            // The filter of a socket counts this reason. XDP has counted the packet already.
            XdpVerdict::Passed if !reason.layers().contains(&Layer::Xdp) => {}
            XdpVerdict::Passed => self.passed += packets,
        }
    }

    /// The number of all counted packets: the four totals and `unknown_reason`.
    pub fn total(&self) -> u64 {
        self.dropped + self.passed + self.redirected + self.invalid + self.unknown_reason
    }
}

impl Add for XdpStats {
    type Output = XdpStats;

    /// Adds each counter to the same counter of `other`, for example to sum over interfaces.
    fn add(self, other: XdpStats) -> XdpStats {
        self.combine(other, u64::saturating_add)
    }
}

impl Sub for XdpStats {
    type Output = XdpStats;

    /// The increase of each counter since `earlier`. The result is 0 for a counter that became
    /// smaller because another program was loaded.
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
            // `redirected` and `invalid` are totals, shown above. `accepted` belongs to sockets:
            // `IngestStats` shows it.
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
    /// Number of bytes. XDP counts a frame from the Ethernet header on, with padding and without
    /// the frame's checksum. If a packet is in several buffers, XDP may leave out the bytes after
    /// the end of the datagram. Sockets count datagrams from the UDP header on.
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
    fn an_unknown_reason_is_counted_in_the_sum_but_in_no_total() {
        let mut counters = [0; abi::LAMINAR_MAX_REASONS as usize];
        counters[abi::LAMINAR_FIRST_REDIRECT_REASON as usize - 1] = 7;
        let stats = XdpStats::of(&counters);
        assert_eq!(stats, XdpStats { unknown_reason: 7, ..XdpStats::default() });
        assert_eq!(stats.total(), 7);
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
