#![allow(unsafe_code)]
//! Thin safe wrappers around system calls and libbpf. All `unsafe` code of the crate is in
//! this module, with one submodule for each subsystem:
//!
//! | module | wraps |
//! |---|---|
//! | `bpf` | bpf(2): small maps and programs without an ELF file, test runs, program info |
//! | `map` | one loaded map: reading and writing its entries |
//! | `libbpf` | libbpf's objects: opening, configuring and loading an ELF file |
//! | `libbpf_print` | libbpf's messages, captured for one thread |
//! | `ring_buffer` | libbpf's reader of a BPF ring buffer |
//! | `xdp_attach` | XDP programs on interfaces: bpf_link and netlink |
//! | `netdev` | names, indexes and drivers of interfaces |
//! | `socket` | socket options, classic and loaded socket programs |
//! | `datagrams` | recvmmsg(2) |
//! | `descriptors` | `SCM_RIGHTS`: descriptors over a Unix stream |
//! | `poll` | eventfd(2) and epoll(7) |
//! | `signals` | the signal mask of a thread |
//! | `thread` | CPU affinity, membarrier(2), the monotonic clock |
//! | `cpus` | the kernel's lists of CPUs |
//!
//! A wrapper makes its call and converts the result into an [`io::Result`]. The callers of
//! this module decide which calls to make and what an error means.

pub mod bpf;
pub mod cpus;
pub mod datagrams;
pub mod descriptors;
pub mod libbpf;
pub mod libbpf_print;
pub mod map;
pub mod netdev;
pub mod poll;
pub mod ring_buffer;
pub mod signals;
pub mod socket;
pub mod thread;
pub mod xdp_attach;

use std::ffi::{CStr, c_int};
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::time::Duration;

/// Converts the return value of a libbpf function. A negative value is an errno of the system
/// or of libbpf itself.
fn check(answer: c_int) -> io::Result<c_int> {
    if answer < 0 { Err(libbpf_error(io::Error::from_raw_os_error(-answer))) } else { Ok(answer) }
}

/// Converts the return value of a C library function. If it is negative, `errno` holds the
/// error.
fn check_errno(answer: c_int) -> io::Result<c_int> {
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(answer) }
}

/// libbpf's own error numbers begin here (`__LIBBPF_ERRNO__START` in its `libbpf.h`).
const LIBBPF_ERRNO_START: c_int = 4000;

/// Replaces an error whose number is one of libbpf's own with an error that has libbpf's text.
fn libbpf_error(error: io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(number) if number >= LIBBPF_ERRNO_START => {
            let mut text = [0u8; 128];
            let (start, size) = (text.as_mut_ptr().cast(), text.len() as _);
            // SAFETY: `start` points to `text`, which has `size` bytes and outlives the
            // call; libbpf writes no more than that and ends the text with a zero.
            unsafe { libbpf_sys::libbpf_strerror(number, start, size) };
            let text = CStr::from_bytes_until_nul(&text).unwrap_or_default();
            io::Error::other(text.to_string_lossy().into_owned())
        }
        _ => error,
    }
}

/// Takes ownership of a descriptor that a libbpf function returned.
///
/// # Safety
/// `answer` is a new descriptor that nothing else owns, or a negative errno.
unsafe fn owned_fd(answer: c_int) -> io::Result<OwnedFd> {
    let fd = check(answer)?;
    // SAFETY: `fd` is not negative, so by this function's contract it is a new
    // descriptor that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Converts a timeout to whole milliseconds, as the kernel expects it. Rounds up, because zero
/// would turn a short wait into a busy loop.
fn whole_milliseconds(timeout: Duration) -> c_int {
    timeout.as_micros().div_ceil(1000).try_into().unwrap_or(c_int::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libbpf_errors_have_a_text() {
        let error = check(-(LIBBPF_ERRNO_START + 1)).unwrap_err();
        assert_eq!((error.raw_os_error(), error.kind()), (None, io::ErrorKind::Other));
        assert!(!error.to_string().contains("4001"), "{error}");
        assert_eq!(check(-libc::EPERM).unwrap_err().raw_os_error(), Some(libc::EPERM));
        assert_eq!(check(7).unwrap(), 7);
    }

    #[test]
    fn timeouts_are_rounded_up() {
        assert_eq!(whole_milliseconds(Duration::ZERO), 0);
        assert_eq!(whole_milliseconds(Duration::from_micros(1)), 1);
        assert_eq!(whole_milliseconds(Duration::from_millis(20)), 20);
        assert_eq!(whole_milliseconds(Duration::MAX), c_int::MAX);
    }
}
