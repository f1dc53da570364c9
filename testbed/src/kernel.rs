//! What the running kernel must be able to do, by its release.
//!
//! A test derives its expectation from this module, never from what the code under test
//! detected. If a feature is missing on a kernel that should have it, the test fails; it is
//! not skipped.

/// Whether the running kernel is of this release or a later one.
pub fn is_at_least(major: u32, minor: u32) -> bool {
    release() >= (major, minor)
}

/// Whether the loopback interface delivers merged datagrams without splitting them.
pub fn loopback_keeps_merged() -> bool {
    is_at_least(5, 11)
}

/// Whether generic mode delivers packets that are redirected to a CPU map. Older kernels lose
/// them.
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
