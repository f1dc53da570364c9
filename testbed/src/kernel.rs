//! The features that the running kernel must have, according to its release.
//!
//! Tests ask this module what to expect, instead of asking the code under test what it detected. A
//! test therefore fails, and is not skipped, if a kernel lacks a feature that its release should
//! have.

/// Whether the release of the running kernel is this one or later.
pub fn is_at_least(major: u32, minor: u32) -> bool {
    release() >= (major, minor)
}

/// Whether the loopback interface delivers merged datagrams (UDP GSO) without splitting them.
pub fn loopback_keeps_merged() -> bool {
    is_at_least(5, 11)
}

/// Whether generic mode delivers packets that are redirected to a CPU map. Kernels before 5.15
/// lose these packets.
pub fn generic_mode_redirects() -> bool {
    is_at_least(5, 15)
}

/// Whether a test run can send real packets (live-frames mode).
pub fn runs_live_frames() -> bool {
    is_at_least(5, 18)
}

/// Whether a packet may consist of several buffers.
pub fn has_multi_buffer() -> bool {
    is_at_least(5, 18)
}

/// Whether a test run can set how many bytes of a packet are in the first buffer.
pub fn test_run_splits_packets() -> bool {
    is_at_least(6, 18)
}

fn release() -> (u32, u32) {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("procfs");
    let mut numbers = release.split(['.', '-']).map(|number| number.trim().parse());
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor),
        _ => panic!("{release:?} is not a release of Linux"),
    }
}
