//! What the running kernel has to be able to do, by its release.
//!
//! Tests expect by this and never by what the code under test found out: a
//! feature that is missing where it should be is a failure, not a test skipped.

/// Whether the running kernel is of this release or a later one.
pub fn is_at_least(major: u32, minor: u32) -> bool {
    release() >= (major, minor)
}

/// The loopback interface carries datagrams that the kernel merged as one.
pub fn loopback_keeps_merged() -> bool {
    is_at_least(5, 11)
}

/// Generic mode delivers what is redirected to a CPU map; before, it loses it.
pub fn generic_mode_redirects() -> bool {
    is_at_least(5, 15)
}

/// A test run can put real packets on their way.
pub fn runs_live_frames() -> bool {
    is_at_least(5, 18)
}

/// Packets may lie in several buffers.
pub fn has_multi_buffer() -> bool {
    is_at_least(5, 18)
}

/// A test run can be told how much of a packet lies in the first buffer.
pub fn test_run_splits_packets() -> bool {
    is_at_least(6, 18)
}

fn release() -> (u32, u32) {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("procfs");
    let mut numbers = release.split(['.', '-']).map(|number| number.trim().parse());
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor),
        _ => panic!("{release:?} is no release of Linux"),
    }
}
