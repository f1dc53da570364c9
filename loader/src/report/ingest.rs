//! The values that `Ingest` returns: its mode, its counters, and datagrams.

use std::fmt;
use std::net::SocketAddr;
use std::ops::Sub;

use serde::Serialize;

use crate::config::XdpAttachMode;
use crate::report::XdpError;
use crate::report::reason::XdpVerdict;
use crate::report::stats::{Counters, XdpStats};

/// How the datagrams of each partition reach the CPU that owns the partition. The datagrams reach
/// that CPU in every mode; the modes differ in cost.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum IngestMode {
    /// XDP filters and steers in the driver.
    XdpNative,
    /// XDP filters and steers in the network stack.
    XdpGeneric,
    /// XDP filters in the given mode, and sockets steer.
    FilterOnly(XdpAttachMode),
    /// Sockets filter and steer. XDP is not used, for the given reason. The reason is
    /// [`XdpError::Disabled`] if the configuration disables XDP.
    Sockets(XdpError),
}

impl fmt::Display for IngestMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            IngestMode::XdpNative => f.write_str("XDP in native mode"),
            IngestMode::XdpGeneric => f.write_str("XDP in generic mode"),
            IngestMode::FilterOnly(mode) => write!(f, "XDP in {mode} mode, filtering only"),
            IngestMode::Sockets(reason) => write!(f, "sockets alone: {}", reason.with_causes()),
        }
    }
}

/// Counters of XDP and the sockets together. The fields are the same in every mode.
///
/// Counters only grow. The difference of two readings counts the events between them:
///
/// ```
/// use laminar_xdp::IngestStats;
///
/// fn report(before: IngestStats, now: IngestStats) {
///     println!("{}", now - before);
/// }
/// # report(IngestStats::default(), IngestStats::default());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[non_exhaustive]
pub struct IngestStats {
    /// Packets by verdict and reason. An invalid datagram is counted once, either by XDP or by
    /// the filter of a socket.
    ///
    /// Without XDP, `passed_no_queue` counts the whole datagrams that the filters accepted, and
    /// `passed_fragment`, `redirected` and `invalid` stay 0. With XDP, a packet that XDP does not
    /// judge is counted only if the filter of a socket drops it. If no program can be loaded,
    /// `dropped_unsorted` is the only counter.
    pub verdicts: XdpStats,
    /// Datagrams that the filter of a socket accepted, whether XDP redirected them or not. `None`
    /// with classic BPF, which does not count these datagrams. If XDP redirects every valid
    /// datagram, `verdicts.redirected` minus `accepted` is the number of datagrams that were lost
    /// between XDP and the sockets. Such a datagram was lost in the queue of a CPU, or afterwards
    /// in the network stack.
    pub accepted: Option<u64>,
    /// Datagrams lost after the filter, because the receive buffer was full or the checksum was
    /// wrong. `None` with classic BPF, which cannot tell these datagrams from invalid datagrams
    /// and counts both together.
    pub overflowed: Option<u64>,
    /// Datagrams that arrived at the socket of a CPU that does not own the datagram's partition.
    /// The receiver of that CPU handed each of these datagrams on to the owner's receiver.
    /// Counted since this process started or took over.
    ///
    /// Some network cards and tunnels merge the datagrams of a sender. Merging can misplace
    /// datagrams. The order of merged datagrams is not kept. `ethtool -K DEVICE rx-gro-list off
    /// rx-udp-gro-forwarding off` disables merging.
    pub misplaced: u64,
    /// Datagrams that one receiver handed on to another, and that were dropped because 65,536
    /// datagrams were already waiting for the other receiver. Receivers hand on misplaced
    /// datagrams and, with classic BPF, the datagrams of partitions that have moved.
    pub dropped_handoff: u64,
    /// Datagrams of a moving partition that the next owner dropped, because it held back 65,536
    /// datagrams already. This happens if a move stays unfinished, for example because a handler
    /// of the former owner does not return.
    pub dropped_held: u64,
}

impl IngestStats {
    /// Combines the counters of XDP and of the sockets. `by_reason` are the counters of the
    /// sockets' filters; `dropped` is the number of datagrams that the sockets dropped.
    pub(crate) fn new(
        xdp: Option<XdpStats>,
        by_reason: Option<Counters>,
        dropped: u64,
        misplaced: u64,
    ) -> IngestStats {
        let verdicts = xdp.unwrap_or_default();
        let mut stats = IngestStats { verdicts, misplaced, ..Default::default() };
        let Some(by_reason) = by_reason else {
            stats.verdicts.dropped_unsorted += dropped;
            stats.verdicts.dropped += dropped;
            return stats;
        };
        let sockets = XdpStats::of(&by_reason);
        stats.verdicts = stats.verdicts + sockets;
        if xdp.is_none() {
            stats.verdicts.passed_no_queue += sockets.accepted;
            stats.verdicts.passed += sockets.accepted;
        }
        stats.accepted = Some(sockets.accepted);
        // All drops of the filters, including drops for reasons that this library does not know.
        let is_drop = |number| XdpVerdict::of_number(number) == XdpVerdict::Dropped;
        let filtered = (0..).zip(by_reason).filter(|(number, _)| is_drop(*number));
        let filtered = filtered.map(|(_, datagrams)| datagrams).sum();
        stats.overflowed = Some(dropped.saturating_sub(filtered));
        stats
    }
}

/// Shows one counter a line, as `name=value`. Counters that are not available are left out.
impl fmt::Display for IngestStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.verdicts)?;
        for (name, value) in [
            ("accepted", self.accepted),
            ("overflowed", self.overflowed),
            ("misplaced", Some(self.misplaced)),
            ("dropped_handoff", Some(self.dropped_handoff)),
            ("dropped_held", Some(self.dropped_held)),
        ] {
            if let Some(value) = value {
                write!(f, "\n{name}={value}")?;
            }
        }
        Ok(())
    }
}

/// The difference of two readings. If a counter is smaller than in the earlier reading, for
/// example because XDP was loaded again, the result is 0. If a counter is `None` in one of the
/// readings, the result is `None`.
impl Sub for IngestStats {
    type Output = IngestStats;

    fn sub(self, earlier: IngestStats) -> IngestStats {
        let both = |now: Option<u64>, earlier: Option<u64>| Some(now?.saturating_sub(earlier?));
        IngestStats {
            verdicts: self.verdicts - earlier.verdicts,
            accepted: both(self.accepted, earlier.accepted),
            overflowed: both(self.overflowed, earlier.overflowed),
            misplaced: self.misplaced.saturating_sub(earlier.misplaced),
            dropped_handoff: self.dropped_handoff.saturating_sub(earlier.dropped_handoff),
            dropped_held: self.dropped_held.saturating_sub(earlier.dropped_held),
        }
    }
}

/// A valid datagram, delivered to the CPU that owns its partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Datagram<'a> {
    /// The partition: `partition_key % partitions`.
    pub partition: u32,
    /// The key in the datagram's header, in host byte order.
    pub partition_key: u32,
    /// The sender's address. If the socket receives both families, IPv4 addresses are mapped to
    /// IPv6 (`::ffff:192.0.2.1`).
    pub sender: SocketAddr,
    /// The bytes that follow the header.
    pub payload: &'a [u8],
}

impl<'a> Datagram<'a> {
    /// Makes a datagram, for tests of code that handles datagrams.
    ///
    /// ```
    /// use laminar_xdp::Datagram;
    ///
    /// let sender = "[::1]:5000".parse().unwrap();
    /// let datagram = Datagram::new(3, 67, sender, b"payload");
    /// assert_eq!(datagram.payload.len(), 7);
    /// ```
    pub fn new(
        partition: u32,
        partition_key: u32,
        sender: SocketAddr,
        payload: &'a [u8],
    ) -> Datagram<'a> {
        Datagram { partition, partition_key, sender, payload }
    }
}

/// What one call of [`Receiver::receive`](crate::Receiver::receive) did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Received {
    /// Number of datagrams that were passed to the handler.
    pub handled: usize,
    /// Whether nothing was left to receive when the call returned. If this is false, call
    /// `receive` again before waiting for the descriptor.
    pub drained: bool,
}

#[cfg(test)]
mod tests {
    use laminar_xdp_prebuilt::abi;

    use super::*;

    fn by_reason() -> Counters {
        let mut by_reason = [0; abi::LAMINAR_MAX_REASONS as usize];
        for (reason, count) in [
            (abi::LAMINAR_REASON_DROPPED_SHORT, 1),
            (abi::LAMINAR_REASON_DROPPED_MAGIC, 2),
            (abi::LAMINAR_REASON_DROPPED_LENGTH, 3),
            (abi::LAMINAR_REASON_DROPPED_MULTICAST, 4),
            (abi::LAMINAR_REASON_ACCEPTED, 100),
        ] {
            by_reason[reason as usize] = count;
        }
        by_reason
    }

    #[test]
    fn counters_of_xdp_and_sockets_are_added_by_reason() {
        let xdp = XdpStats { redirected: 90, dropped_magic: 5, dropped: 5, ..Default::default() };
        let both = IngestStats::new(Some(xdp), Some(by_reason()), 14, 0);
        assert_eq!((both.verdicts.dropped, both.verdicts.dropped_magic), (15, 7));
        assert_eq!((both.verdicts.redirected, both.verdicts.passed), (90, 0));
        assert_eq!((both.accepted, both.overflowed), (Some(100), Some(4)));
    }

    #[test]
    fn sockets_alone_count_accepted_datagrams_as_passed() {
        let sockets = IngestStats::new(None, Some(by_reason()), 10, 0);
        assert_eq!((sockets.verdicts.passed, sockets.verdicts.total()), (100, 110));
    }

    #[test]
    fn an_unknown_drop_of_a_filter_is_not_an_overflow() {
        let mut by_reason = [0; abi::LAMINAR_MAX_REASONS as usize];
        by_reason[abi::LAMINAR_FIRST_REDIRECT_REASON as usize - 1] = 6;
        let stats = IngestStats::new(None, Some(by_reason), 8, 0);
        assert_eq!((stats.verdicts.unknown_reason, stats.verdicts.dropped), (6, 0));
        assert_eq!(stats.overflowed, Some(2));
    }

    #[test]
    fn classic_bpf_counts_drops_without_reason() {
        let classic = IngestStats::new(None, None, 7, 0);
        assert_eq!((classic.verdicts.dropped, classic.verdicts.dropped_unsorted), (7, 7));
        assert_eq!((classic.accepted, classic.overflowed), (None, None));
    }

    #[test]
    fn the_difference_of_two_readings_never_wraps() {
        let earlier = IngestStats {
            verdicts: XdpStats { dropped: 5, ..Default::default() },
            accepted: Some(10),
            overflowed: None,
            misplaced: 7,
            dropped_handoff: 1,
            dropped_held: 1,
        };
        let now = IngestStats { accepted: Some(15), overflowed: Some(3), misplaced: 2, ..earlier };
        let expected = IngestStats { accepted: Some(5), ..Default::default() };
        assert_eq!(now - earlier, expected);
    }

    #[test]
    fn display_shows_available_counters_one_a_line() {
        let stats = IngestStats { accepted: Some(1), misplaced: 2, ..Default::default() };
        let text = stats.to_string();
        assert!(text.starts_with(&stats.verdicts.to_string()), "{text}");
        assert!(
            text.ends_with("\naccepted=1\nmisplaced=2\ndropped_handoff=0\ndropped_held=0"),
            "{text}"
        );
    }

    #[test]
    fn all_counters_serialize_by_name() {
        let json = serde_json::to_value(IngestStats::default()).unwrap();
        let names = ["verdicts", "accepted", "overflowed", "misplaced", "dropped_handoff"];
        for name in names.into_iter().chain(["dropped_held"]) {
            assert!(json.get(name).is_some(), "{name}");
        }
    }

    #[test]
    fn sockets_alone_show_their_reason_with_its_cause() {
        let error = std::io::Error::from_raw_os_error(1);
        let cause = error.to_string();
        let mode = IngestMode::Sockets(XdpError::kernel("load it", error));
        assert!(mode.clone().to_string().contains(&cause), "{mode}");
    }
}
