//! Network namespaces without names.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::ptr;

use crate::sys::{check, fd_path};
use crate::threads::on_new_thread;

/// A network namespace. It lives as long as this value and the sockets that were opened in
/// it. Each thread can be in a namespace of its own, so tests need no processes.
#[derive(Debug)]
pub struct Namespace(File);

impl Namespace {
    /// Creates a new, empty namespace. Needs root.
    pub fn new() -> io::Result<Namespace> {
        on_new_thread(|| {
            // SAFETY: the call affects this thread only, which ends after this.
            check(unsafe { libc::unshare(libc::CLONE_NEWNET) })?;
            File::open("/proc/thread-self/ns/net").map(Namespace)
        })
    }

    /// Runs `work` in a new thread inside the namespace and waits for it. A socket that
    /// `work` opens stays in the namespace when another thread uses it. Capabilities that
    /// `work` gives up are lost for its thread only.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        on_new_thread(|| {
            self.join().expect("setns");
            work()
        })
    }

    /// Moves the calling thread into the namespace. Other threads stay where they are.
    pub fn join(&self) -> io::Result<()> {
        // SAFETY: the call affects this thread only.
        check(unsafe { libc::setns(self.0.as_raw_fd(), libc::CLONE_NEWNET) }).map(|_| ())
    }

    /// A second handle of the same namespace.
    pub fn try_clone(&self) -> io::Result<Namespace> {
        self.0.try_clone().map(Namespace)
    }

    /// The path of the namespace for commands such as `ip link set netns`.
    pub fn path(&self) -> String {
        fd_path(&self.0)
    }
}

/// Mounts a sysfs that shows the network namespace of the calling thread. Other threads keep
/// the sysfs that they have.
pub fn mount_own_sysfs() -> io::Result<()> {
    let (sysfs, target) = (c"sysfs".as_ptr(), c"/sys".as_ptr());
    // SAFETY: the call affects this thread only.
    check(unsafe { libc::unshare(libc::CLONE_NEWNS) })?;
    // SAFETY: the paths are C strings, and null stands for "unchanged" and "no options".
    check(unsafe {
        let private = libc::MS_REC | libc::MS_PRIVATE;
        libc::mount(ptr::null(), c"/".as_ptr(), ptr::null(), private, ptr::null())
    })?;
    // SAFETY: the source, the path and the type are C strings; there are no options.
    check(unsafe { libc::mount(sysfs, target, sysfs, 0, ptr::null()) }).map(|_| ())
}
