//! Unnamed network namespaces.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::ptr;

use crate::sys::{check, fd_path};
use crate::threads::on_new_thread;

/// A network namespace. The kernel keeps the namespace until this value is dropped and every socket
/// that was opened in the namespace is closed. Each thread can be in a different namespace, so a
/// test needs only one process.
#[derive(Debug)]
pub struct Namespace(File);

impl Namespace {
    /// Creates a new, empty namespace. Needs root.
    pub fn new() -> io::Result<Namespace> {
        on_new_thread(|| {
            // SAFETY: the call affects this thread only, and this thread ends with the closure.
            check(unsafe { libc::unshare(libc::CLONE_NEWNET) })?;
            File::open("/proc/thread-self/ns/net").map(Namespace)
        })
    }

    /// Runs `work` in a new thread inside the namespace and waits for it. A socket that
    /// `work` opens belongs to the namespace, whichever thread uses it later. If `work` drops
    /// capabilities, the calling thread keeps them.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        on_new_thread(|| {
            self.join().expect("setns");
            work()
        })
    }

    /// Moves the calling thread, and no other thread, into the namespace.
    pub fn join(&self) -> io::Result<()> {
        // SAFETY: the call affects this thread only.
        check(unsafe { libc::setns(self.0.as_raw_fd(), libc::CLONE_NEWNET) }).map(|_| ())
    }

    /// Returns another handle to this namespace.
    pub fn try_clone(&self) -> io::Result<Namespace> {
        self.0.try_clone().map(Namespace)
    }

    /// The path of the namespace for commands such as `ip link set netns`.
    pub fn path(&self) -> String {
        fd_path(&self.0)
    }
}

/// Mounts a sysfs that shows the network namespace of the calling thread. The mount is visible
/// to this thread only.
pub fn mount_own_sysfs() -> io::Result<()> {
    let (sysfs, target) = (c"sysfs".as_ptr(), c"/sys".as_ptr());
    // SAFETY: the call affects this thread only.
    check(unsafe { libc::unshare(libc::CLONE_NEWNS) })?;
    // SAFETY: the path is a C string, and the call ignores the null pointers.
    check(unsafe {
        let private = libc::MS_REC | libc::MS_PRIVATE;
        libc::mount(ptr::null(), c"/".as_ptr(), ptr::null(), private, ptr::null())
    })?;
    // SAFETY: the source, the path and the type are C strings, and the null options mean "none".
    check(unsafe { libc::mount(sysfs, target, sysfs, 0, ptr::null()) }).map(|_| ())
}
