//! The kernel's lists of CPUs in /sys.

use std::fs;
use std::io;
use std::ops::RangeInclusive;

use crate::ids::CpuId;

/// The file that lists the possible CPUs: those that are present or can be added later.
pub const POSSIBLE_PATH: &str = "/sys/devices/system/cpu/possible";

/// The file that lists the CPUs that are online.
pub const ONLINE_PATH: &str = "/sys/devices/system/cpu/online";

/// The possible CPUs of this machine. The values of a per-CPU map have the same order.
pub fn possible() -> io::Result<Vec<CpuId>> {
    read(POSSIBLE_PATH)
}

/// The CPUs that are online.
pub fn online() -> io::Result<Vec<CpuId>> {
    read(ONLINE_PATH)
}

/// Whether a CPU is online; true if the list cannot be read.
pub fn is_online(cpu: CpuId) -> bool {
    online().map_or(true, |online| online.contains(&cpu))
}

fn read(path: &str) -> io::Result<Vec<CpuId>> {
    let ranges = parse_cpu_list(&fs::read_to_string(path)?);
    let ranges = ranges.ok_or(io::ErrorKind::InvalidData)?;
    Ok(ranges.into_iter().flatten().map(CpuId::new).collect())
}

/// Parses a list of CPUs as the kernel writes it, such as `0-3,8`.
pub fn parse_cpu_list(text: &str) -> Option<Vec<RangeInclusive<u32>>> {
    let ranges = text.trim().split(',').filter(|range| !range.is_empty());
    let parsed = ranges.map(|range| match range.split_once('-') {
        Some((first, last)) => Some(first.parse().ok()?..=last.parse().ok()?),
        None => range.parse().ok().map(|cpu| cpu..=cpu),
    });
    parsed.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_lists_are_parsed_as_the_kernel_writes_them() {
        assert_eq!(parse_cpu_list("0-3,8,10-11\n"), Some(vec![0..=3, 8..=8, 10..=11]));
        assert_eq!(parse_cpu_list("\n"), Some(vec![]));
        assert_eq!(parse_cpu_list("0-x\n"), None);
    }

    #[test]
    fn online_cpus_are_possible() {
        let (possible, online) = (possible().unwrap(), online().unwrap());
        assert!(!online.is_empty());
        assert!(online.iter().all(|cpu| possible.contains(cpu) && is_online(*cpu)));
        assert!(!is_online(CpuId::new(u32::MAX)));
    }
}
