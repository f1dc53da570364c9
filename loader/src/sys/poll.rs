//! Waiting for descriptors: eventfd(2) to wake a thread, and epoll(7) to wait for several
//! descriptors through one.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;
use std::time::Duration;

use super::{check_errno, whole_milliseconds};

/// A descriptor that is readable from [`EventFd::signal`] until [`EventFd::clear`].
#[derive(Debug)]
pub struct EventFd(File);

impl EventFd {
    /// Makes a descriptor that is not readable.
    pub fn new() -> io::Result<EventFd> {
        // SAFETY: the call takes no pointer.
        let fd = check_errno(unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) })?;
        // SAFETY: `fd` is a new descriptor that nothing else owns.
        Ok(EventFd(unsafe { OwnedFd::from_raw_fd(fd) }.into()))
    }

    /// Makes the descriptor readable.
    pub fn signal(&self) {
        // Writing fails only if the counter is at its maximum. The descriptor is already readable
        // then.
        (&self.0).write_all(&1u64.to_ne_bytes()).ok();
    }

    /// Makes the descriptor unreadable until the next signal.
    pub fn clear(&self) {
        // One read clears all signals. Reading fails only if there was no signal.
        (&self.0).read_exact(&mut [0; size_of::<u64>()]).ok();
    }
}

impl AsFd for EventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A set of descriptors to wait for. The poller itself has a descriptor. That descriptor is
/// readable while [`Poller::wait`] would return at once, so another poller can wait for this
/// poller.
#[derive(Debug)]
pub struct Poller(OwnedFd);

impl Poller {
    /// Makes a poller without descriptors.
    pub fn new() -> io::Result<Poller> {
        // SAFETY: the call takes no pointer.
        let fd = check_errno(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        // SAFETY: `fd` is a new descriptor that nothing else owns.
        Ok(Poller(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Adds a descriptor. A wait ends when the descriptor becomes readable. The kernel removes the
    /// descriptor from the poller when the descriptor's last duplicate is closed.
    pub fn add(&self, fd: impl AsFd) -> io::Result<()> {
        let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: 0 };
        let (poller, fd) = (self.0.as_raw_fd(), fd.as_fd());
        // SAFETY: both descriptors are open during the call. The kernel reads one event: `event`,
        // which outlives the call.
        let answer =
            unsafe { libc::epoll_ctl(poller, libc::EPOLL_CTL_ADD, fd.as_raw_fd(), &mut event) };
        check_errno(answer).map(drop)
    }

    /// Waits until an added descriptor is readable, or until the timeout ends. Returns
    /// whether a descriptor is readable. The timeout is rounded up to whole milliseconds. An
    /// interrupted wait ends early.
    pub fn wait(&self, timeout: Duration) -> io::Result<bool> {
        let mut event = libc::epoll_event { events: 0, u64: 0 };
        let (poller, milliseconds) = (self.0.as_raw_fd(), whole_milliseconds(timeout));
        // SAFETY: `poller` is open during the call. The kernel writes at most one event: `event`,
        // which outlives the call.
        let answer =
            unsafe { libc::epoll_wait(poller, ptr::from_mut(&mut event), 1, milliseconds) };
        match check_errno(answer) {
            Ok(events) => Ok(events > 0),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(false),
            Err(error) => Err(error),
        }
    }
}

impl AsFd for Poller {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    const SHORT: Duration = Duration::from_millis(30);
    const LONG: Duration = Duration::from_secs(10);

    fn is_readable(poller: &Poller) -> bool {
        poller.wait(Duration::ZERO).unwrap()
    }

    #[test]
    fn an_event_is_readable_from_signal_to_clear() {
        let (event, poller) = (EventFd::new().unwrap(), Poller::new().unwrap());
        poller.add(&event).unwrap();
        event.clear();
        assert!(!is_readable(&poller));
        event.signal();
        event.signal();
        assert!(is_readable(&poller) && is_readable(&poller));
        event.clear();
        assert!(!is_readable(&poller));
    }

    #[test]
    fn a_poller_can_be_polled() {
        let (event, poller) = (EventFd::new().unwrap(), Poller::new().unwrap());
        let outer = Poller::new().unwrap();
        poller.add(&event).unwrap();
        outer.add(&poller).unwrap();
        assert!(!is_readable(&outer));
        event.signal();
        assert!(is_readable(&outer));
    }

    #[test]
    fn a_wait_without_a_signal_ends_at_its_timeout() {
        let (event, poller) = (EventFd::new().unwrap(), Poller::new().unwrap());
        poller.add(&event).unwrap();
        let begin = Instant::now();
        assert!(!poller.wait(SHORT).unwrap());
        assert!(begin.elapsed() >= SHORT);
    }

    #[test]
    fn a_signal_from_another_thread_ends_a_wait() {
        let (event, poller) = (EventFd::new().unwrap(), Poller::new().unwrap());
        poller.add(&event).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(SHORT);
                event.signal();
            });
            assert!(poller.wait(LONG).unwrap());
        });
    }
}
