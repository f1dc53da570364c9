//! Reads the counters that a program keeps in its map `stats`.

use std::io;

use laminar_xdp_prebuilt::abi;
use laminar_xdp_prebuilt::schema::stats_key;

use crate::report::{Counters, XdpCounter, XdpReason};
use crate::sys::cpus;
use crate::sys::map::Map;

/// The interface slot of the counters. XDP programs use only this slot today; socket programs
/// always use it.
const SLOT: u32 = 0;

/// Reads the packets of each reason number, summed over all CPUs.
pub fn read_packets(stats: &Map) -> io::Result<Counters> {
    let mut counters: Counters = [0; abi::LAMINAR_MAX_REASONS as usize];
    for (number, counter) in (0..).zip(&mut counters) {
        *counter = per_cpu(stats, number)?.iter().map(|[packets, _]| packets).sum();
    }
    Ok(counters)
}

/// Reads the counters of each reason and CPU. Leaves out counters that are 0. `interface` is
/// the interface of an XDP program, and `None` for socket programs.
pub fn read_counters(stats: &Map, interface: Option<&str>) -> io::Result<Vec<XdpCounter>> {
    let cpus = cpus::possible()?;
    let mut counters = Vec::new();
    for &reason in XdpReason::ALL {
        let counts = cpus.iter().zip(per_cpu(stats, reason.number())?);
        let counted = counts.filter(|(_, [packets, _])| *packets > 0);
        counters.extend(counted.map(|(cpu, [packets, bytes])| {
            XdpCounter::new(interface, reason, cpu.get(), packets, bytes)
        }));
    }
    Ok(counters)
}

/// Packets and bytes on each CPU.
fn per_cpu(stats: &Map, number: u32) -> io::Result<Vec<[u64; 2]>> {
    stats.lookup_per_cpu(stats_key(SLOT, number))
}
