//! Converts the return values of libbpf to Rust results.

use std::ffi::c_int;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

/// Converts a return value of libbpf to a result. A negative value is `-errno`.
pub(super) fn check(answer: c_int) -> io::Result<c_int> {
    if answer < 0 { Err(io::Error::from_raw_os_error(-answer)) } else { Ok(answer) }
}

/// Takes ownership of the descriptor that a libbpf call returned.
///
/// # Safety
///
/// If `answer` is not negative, it is a new descriptor that nothing else owns.
pub(super) unsafe fn own(answer: c_int) -> io::Result<OwnedFd> {
    let fd = check(answer)?;
    // SAFETY: the caller guarantees that nothing else owns the descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
