//! Counters in memory that several processes share.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::ptr;
use std::sync::atomic::AtomicU64;

use crate::sys::{check, fd_path};

/// Counters in memory that other processes can map. The counters start at 0.
#[derive(Debug)]
pub struct SharedCounters {
    file: File,
    numbers: &'static [AtomicU64],
}

impl SharedCounters {
    /// Creates `count` counters.
    pub fn new(count: usize) -> io::Result<SharedCounters> {
        // SAFETY: the name is a C string.
        let fd = unsafe { libc::memfd_create(c"laminar-xdp-test".as_ptr(), libc::MFD_CLOEXEC) };
        let fd = check(fd)?;
        // SAFETY: the descriptor is new, so nothing else owns it.
        let file = unsafe { File::from_raw_fd(fd) };
        file.set_len((count * size_of::<AtomicU64>()) as u64)?;
        Self::map(file)
    }

    /// Maps the counters of another process. `path` is the [`SharedCounters::path`] that the
    /// other process returned.
    pub fn open(path: &str) -> io::Result<SharedCounters> {
        Self::map(File::options().read(true).write(true).open(path)?)
    }

    /// The path that other processes pass to [`SharedCounters::open`]. The path is valid while this
    /// process lives.
    pub fn path(&self) -> String {
        fd_path(&self.file)
    }

    /// The counters.
    pub fn numbers(&self) -> &'static [AtomicU64] {
        self.numbers
    }

    fn map(file: File) -> io::Result<SharedCounters> {
        let size = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
        // SAFETY: this is a new mapping of a whole file. The file never shrinks.
        let start = unsafe {
            let (access, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
            libc::mmap(ptr::null_mut(), size, access, flags, file.as_raw_fd(), 0)
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the mapping is never removed and is aligned to a page. Every bit pattern is a
        // valid `AtomicU64`.
        let numbers = unsafe {
            std::slice::from_raw_parts(start.cast::<AtomicU64>(), size / size_of::<AtomicU64>())
        };
        Ok(SharedCounters { file, numbers })
    }
}
