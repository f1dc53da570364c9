//! Thread-per-core ingest: what can be chosen, and what is said about it.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use laminar_xdp_prebuilt::abi;

use crate::config::XdpAttachMode;
use crate::error::XdpError;
use crate::stats::XdpStats;

/// Which CPUs own partitions, and how their sockets are opened. The port and the
/// partitions are those of [`crate::XdpConfig`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IngestConfig {
    /// Ids of CPUs that are online; each gets a socket. Partition `p` starts on
    /// `cores[p % cores.len()]`.
    pub cores: Vec<u32>,
    /// The address that datagrams are sent to. The default, `::`, stands for every
    /// address of the machine, IPv4 ones among them.
    pub address: IpAddr,
    /// Bytes that each socket holds until they are read, as `SO_RCVBUF` counts them, 1 to
    /// 2^30: a datagram takes some 400 bytes more than its length. Beyond
    /// `net.core.rmem_max` it takes CAP_NET_ADMIN; what the kernel grants
    /// ([`crate::Ingest::receive_buffer`]) may be less, and one warning says so.
    /// Default: 4 MiB.
    pub receive_buffer: u32,
}

impl IngestConfig {
    /// The defaults, for these CPUs.
    pub fn new(cores: impl Into<Vec<u32>>) -> IngestConfig {
        IngestConfig {
            cores: cores.into(),
            address: Ipv6Addr::UNSPECIFIED.into(),
            receive_buffer: 4 << 20,
        }
    }
}

/// What stands behind the promise that each partition's datagrams reach its owner. In
/// every mode they do.
#[derive(Debug)]
#[non_exhaustive]
pub enum IngestMode {
    /// XDP filters and steers in the driver.
    XdpNative,
    /// XDP filters and steers in the network stack.
    XdpGeneric,
    /// XDP filters in this mode; sockets choose the owner.
    FilterOnly(XdpAttachMode),
    /// Sockets alone, for this reason.
    Sockets(XdpError),
}

impl fmt::Display for IngestMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            IngestMode::XdpNative => f.write_str("XDP in native mode"),
            IngestMode::XdpGeneric => f.write_str("XDP in generic mode"),
            IngestMode::FilterOnly(mode) => write!(f, "XDP in {mode} mode, filtering only"),
            IngestMode::Sockets(reason) => write!(f, "sockets alone: {reason}"),
        }
    }
}

/// Counters of XDP and the sockets together, of one shape in every mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct IngestStats {
    /// What became of packets. Junk is counted once, by XDP or by a socket's filter.
    /// Without XDP `passed_no_queue` counts the datagrams that the filters accepted,
    /// whole ones: `passed_fragment`, `redirected` and `invalid` stay 0. With XDP,
    /// packets that it leaves alone are counted only where a filter drops them.
    /// Where no program can be loaded, `dropped_unsorted` is all there is.
    pub verdicts: XdpStats,
    /// Datagrams that a socket's filter accepted, whether XDP redirected or passed them;
    /// `None` where no program counts. If everything comes through XDP,
    /// `verdicts.redirected` minus this was lost in a CPU's queue or by the network stack
    /// behind it.
    pub accepted: Option<u64>,
    /// Datagrams lost behind the filter: the receive buffer was full, or the checksum
    /// wrong. `None` where the kernel does not tell them from junk.
    pub overflowed: Option<u64>,
    /// Datagrams that came to another socket than their partition's and were handed to
    /// the right receiver in this process, which began at the hand-over if there was
    /// one: some network cards and tunnels merge a sender's datagrams (`ethtool -K
    /// DEVICE rx-gro-list off rx-udp-gro-forwarding off`). For these no order is
    /// promised.
    pub misplaced: u64,
    /// Datagrams that one receiver handed on to another in this process (misplaced ones
    /// and, behind classic BPF, those of partitions that have moved) and that were lost
    /// because 65536 of them waited already.
    pub lost_in_hand: u64,
}

impl IngestStats {
    pub(crate) fn new(
        xdp: Option<XdpStats>,
        by_reason: Option<[u64; abi::LAMINAR_REASON_COUNT as usize]>,
        dropped: u64,
        misplaced: u64,
    ) -> IngestStats {
        let mut stats =
            IngestStats { verdicts: xdp.unwrap_or_default(), misplaced, ..Default::default() };
        let verdicts = &mut stats.verdicts;
        let Some(by_reason) = by_reason else {
            verdicts.dropped_unsorted = dropped;
            verdicts.dropped += dropped;
            return stats;
        };
        let count = |reason: u32| by_reason[reason as usize];
        let mut junk = 0;
        for (total, reason) in [
            (&mut verdicts.dropped_short, abi::LAMINAR_REASON_DROPPED_SHORT),
            (&mut verdicts.dropped_magic, abi::LAMINAR_REASON_DROPPED_MAGIC),
            (&mut verdicts.dropped_length, abi::LAMINAR_REASON_DROPPED_LENGTH),
            (&mut verdicts.dropped_multicast, abi::LAMINAR_REASON_DROPPED_MULTICAST),
        ] {
            *total += count(reason);
            junk += count(reason);
        }
        verdicts.dropped += junk;
        let accepted = count(abi::LAMINAR_REASON_ACCEPTED);
        if xdp.is_none() {
            verdicts.passed_no_queue = accepted;
            verdicts.passed = accepted;
        }
        stats.accepted = Some(accepted);
        stats.overflowed = Some(dropped.saturating_sub(junk));
        stats
    }
}

/// A valid datagram at the CPU that owns its partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Datagram<'a> {
    /// `partition_key % partitions`.
    pub partition: u32,
    /// As the header has it.
    pub partition_key: u32,
    /// Who sent it. IPv4 addresses are mapped (`::ffff:192.0.2.1`) where the socket is
    /// one for both families.
    pub sender: SocketAddr,
    /// What follows the header.
    pub payload: &'a [u8],
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_layers_count_into_one_shape() {
        let mut by_reason = [0; abi::LAMINAR_REASON_COUNT as usize];
        for (reason, count) in [
            (abi::LAMINAR_REASON_DROPPED_SHORT, 1),
            (abi::LAMINAR_REASON_DROPPED_MAGIC, 2),
            (abi::LAMINAR_REASON_DROPPED_LENGTH, 3),
            (abi::LAMINAR_REASON_DROPPED_MULTICAST, 4),
            (abi::LAMINAR_REASON_ACCEPTED, 100),
        ] {
            by_reason[reason as usize] = count;
        }
        let xdp = XdpStats { redirected: 90, dropped_magic: 5, dropped: 5, ..Default::default() };
        let both = IngestStats::new(Some(xdp), Some(by_reason), 14, 0);
        assert_eq!((both.verdicts.dropped, both.verdicts.dropped_magic), (15, 7));
        assert_eq!((both.verdicts.redirected, both.verdicts.passed), (90, 0));
        assert_eq!((both.accepted, both.overflowed), (Some(100), Some(4)));
        let sockets = IngestStats::new(None, Some(by_reason), 10, 0);
        assert_eq!((sockets.verdicts.passed, sockets.verdicts.total()), (100, 110));
        let classic = IngestStats::new(None, None, 7, 0);
        assert_eq!((classic.verdicts.dropped, classic.verdicts.dropped_unsorted), (7, 7));
        assert_eq!((classic.accepted, classic.overflowed), (None, None));
    }
}
