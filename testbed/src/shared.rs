//! Numbers that several processes write.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::ptr;
use std::sync::atomic::AtomicU64;

/// Numbers in memory that other processes can map too. They begin at 0.
#[derive(Debug)]
pub struct SharedCounters {
    file: File,
    numbers: &'static [AtomicU64],
}

impl SharedCounters {
    /// Makes new ones.
    pub fn new(count: usize) -> io::Result<SharedCounters> {
        // SAFETY: the name is a C string.
        let fd = unsafe { libc::memfd_create(c"laminar-xdp-test".as_ptr(), libc::MFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a new descriptor of ours.
        let file = unsafe { File::from_raw_fd(fd) };
        file.set_len((count * size_of::<AtomicU64>()) as u64)?;
        Self::map(file)
    }

    /// Those of another process, by [`SharedCounters::path`].
    pub fn open(path: &str) -> io::Result<SharedCounters> {
        Self::map(File::options().read(true).write(true).open(path)?)
    }

    /// A path by which other processes find them, as long as this one lives.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd())
    }

    /// The numbers.
    pub fn numbers(&self) -> &'static [AtomicU64] {
        self.numbers
    }

    fn map(file: File) -> io::Result<SharedCounters> {
        let size = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
        // SAFETY: a new mapping of a whole file, which never shrinks and is never unmapped.
        let start = unsafe {
            let (access, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
            libc::mmap(ptr::null_mut(), size, access, flags, file.as_raw_fd(), 0)
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: mapped for good, aligned to a page, and any bits are a number.
        let numbers = unsafe {
            std::slice::from_raw_parts(start.cast::<AtomicU64>(), size / size_of::<AtomicU64>())
        };
        Ok(SharedCounters { file, numbers })
    }
}
