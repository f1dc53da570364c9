//! The CPUs of the machine that all tests run on.

use std::fs;

use anyhow::{Context, Result};

/// The CPUs that are online. Panics if only one CPU is online, because steering needs two CPUs.
pub fn online_cpus() -> Vec<u32> {
    let cpus = testbed::online_cpus();
    assert!(cpus.len() >= 2, "the tests of steering need two online CPUs, but have {cpus:?}");
    cpus
}

/// The two CPUs that own partitions in the tests of ingest.
pub fn two_cpus() -> [u32; 2] {
    let cpus = online_cpus();
    [cpus[0], cpus[1]]
}

/// Takes a CPU offline, runs `work`, and brings the CPU back online even if `work` panics.
pub fn with_cpu_offline<T>(cpu: u32, work: impl FnOnce() -> T) -> Result<T> {
    struct BringBack(String);
    impl Drop for BringBack {
        fn drop(&mut self) {
            fs::write(&self.0, "1").expect("bring the CPU back");
        }
    }
    let switch = format!("/sys/devices/system/cpu/cpu{cpu}/online");
    fs::write(&switch, "0").with_context(|| format!("cannot write {switch}"))?;
    let _bring_back = BringBack(switch);
    Ok(work())
}
