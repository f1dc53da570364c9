//! Functions that several modules share to make system calls, and system calls that no other
//! module covers.

use std::io;
use std::os::fd::AsRawFd;

/// Converts a return value of the C library to a result. A negative value means that `errno`
/// holds the error.
pub(crate) fn check(answer: libc::c_int) -> io::Result<libc::c_int> {
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(answer) }
}

/// The path by which other processes can open this descriptor while this process lives.
pub(crate) fn fd_path(fd: &impl AsRawFd) -> String {
    format!("/proc/{}/fd/{}", std::process::id(), fd.as_raw_fd())
}

/// The time of `CLOCK_MONOTONIC` in nanoseconds. BPF programs read the same clock.
pub fn monotonic_nanoseconds() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes to `time` only.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Describes the privileges that the process lacks to create network namespaces and load
/// programs. Returns `None` for root. The text, such as "needs root", can follow the name of a
/// command in a message.
pub fn missing_privileges() -> Option<&'static str> {
    // SAFETY: the call has no precondition and cannot fail.
    match unsafe { libc::geteuid() } {
        0 => None,
        _ => Some("needs root"),
    }
}
