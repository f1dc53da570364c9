//! A network namespace without a name.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::{io, thread};

/// A network namespace that lives as long as this value and what was opened in
/// it. Threads have namespaces of their own, so tests need no processes.
#[derive(Debug)]
pub struct Namespace(File);

impl Namespace {
    /// Makes a new, empty namespace. Takes root.
    pub fn new() -> io::Result<Namespace> {
        on_a_thread(|| {
            // SAFETY: affects only this thread, which ends after this.
            if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
                return Err(io::Error::last_os_error());
            }
            File::open("/proc/thread-self/ns/net").map(Namespace)
        })
    }

    /// Runs `work` on a new thread inside the namespace and waits for it. What it
    /// opens stays in the namespace wherever it is used later, and the rights
    /// that it gives up are given up for that thread only.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        on_a_thread(|| {
            self.join().expect("setns");
            work()
        })
    }

    /// Moves the calling thread, and no other, into the namespace for good.
    pub fn join(&self) -> io::Result<()> {
        // SAFETY: affects only this thread.
        match unsafe { libc::setns(self.0.as_raw_fd(), libc::CLONE_NEWNET) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// The same namespace once more, which lives until both values are gone.
    pub fn try_clone(&self) -> io::Result<Namespace> {
        self.0.try_clone().map(Namespace)
    }

    /// A path by which other commands find the namespace.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }
}

pub(crate) fn on_a_thread<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| match scope.spawn(work).join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}
