//! How receivers reach each other: datagrams that one leaves for another, requests to
//! drain a socket, and a descriptor that wakes a receiver which waits.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::ids::CpuIndex;
use crate::ingest::datagram::OwnedDatagram;
use crate::report::XdpError;
use crate::sync::lock;
use crate::sys::poll::EventFd;

/// The most datagrams that wait in one mailbox.
pub const MAX_MAIL: usize = 65_536;

/// The mailbox of each CPU's receiver, and what went through them.
#[derive(Debug)]
pub struct Mailboxes {
    boxes: Vec<Mailbox>,
    handed_on: AtomicU64,
    misplaced: AtomicU64,
    dropped: AtomicU64,
}

impl Mailboxes {
    /// A mailbox for each of this many CPUs.
    pub fn new(cpus: usize) -> Result<Mailboxes, XdpError> {
        let boxes = (0..cpus).map(|_| Mailbox::new()).collect::<io::Result<_>>();
        let boxes =
            boxes.map_err(|error| XdpError::TooManySockets { cpus, source: error.into() })?;
        let [handed_on, misplaced, dropped] = [const { AtomicU64::new(0) }; 3];
        Ok(Mailboxes { boxes, handed_on, misplaced, dropped })
    }

    pub fn of(&self, cpu: CpuIndex) -> &Mailbox {
        &self.boxes[usize::from(cpu.get())]
    }

    /// Leaves a datagram for another CPU's receiver. If its mailbox is full, the datagram
    /// is dropped and counted.
    pub fn hand_on(&self, from: CpuIndex, to: CpuIndex, datagram: OwnedDatagram) {
        self.handed_on.fetch_add(1, Ordering::Relaxed);
        let initial_owner = datagram.partition.get() as usize % self.boxes.len();
        if initial_owner != usize::from(from.get()) {
            self.misplaced.fetch_add(1, Ordering::Relaxed);
        }
        if !self.of(to).leave(datagram) {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Datagrams that receivers handed on.
    pub fn handed_on(&self) -> u64 {
        self.handed_on.load(Ordering::Relaxed)
    }

    /// The part of [`Mailboxes::handed_on`] that arrived at another CPU than the one where
    /// its partition starts.
    pub fn misplaced(&self) -> u64 {
        self.misplaced.load(Ordering::Relaxed)
    }

    /// The part of [`Mailboxes::handed_on`] that found the mailbox full.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

/// One receiver's mailbox. It outlives the receiver, so that the next one finds what was
/// left.
#[derive(Debug)]
pub struct Mailbox {
    in_use: AtomicBool,
    /// Whether `mail` may hold something: saves the lock on each call of a receiver.
    has_mail: AtomicBool,
    mail: Mutex<Vec<OwnedDatagram>>,
    /// How many times somebody asked the receiver to drain its socket.
    requested: AtomicU64,
    /// The last of these requests that the receiver has met.
    drained: Mutex<u64>,
    met: Condvar,
    /// Whether `wake_fd` is signalled: saves a system call for each further wake-up.
    is_woken: AtomicBool,
    wake_fd: EventFd,
}

impl Mailbox {
    fn new() -> io::Result<Mailbox> {
        Ok(Mailbox {
            in_use: AtomicBool::new(false),
            has_mail: AtomicBool::new(false),
            mail: Mutex::new(Vec::new()),
            requested: AtomicU64::new(0),
            drained: Mutex::new(0),
            met: Condvar::new(),
            is_woken: AtomicBool::new(false),
            wake_fd: EventFd::new()?,
        })
    }

    /// Makes the caller the mailbox's receiver; false if it has one. Mail and requests that
    /// an earlier receiver left wake the new one, which may wait before it looks for them.
    pub fn claim(&self) -> bool {
        if self.in_use.swap(true, Ordering::AcqRel) {
            return false;
        }
        if !self.is_empty() || *lock(&self.drained) < self.drain_request() {
            self.wake();
        }
        true
    }

    /// Ends the receiver's claim. What it took and did not handle comes before the mail
    /// that waits already.
    pub fn release(&self, mut unhandled: Vec<OwnedDatagram>) {
        let mut mail = lock(&self.mail);
        unhandled.append(&mut mail);
        self.has_mail.store(!unhandled.is_empty(), Ordering::Release);
        *mail = unhandled;
        drop(mail);
        self.in_use.store(false, Ordering::Release);
    }

    pub fn is_in_use(&self) -> bool {
        self.in_use.load(Ordering::Acquire)
    }

    pub fn is_empty(&self) -> bool {
        lock(&self.mail).is_empty()
    }

    /// Adds a datagram and wakes the receiver; false if the mailbox is full.
    fn leave(&self, datagram: OwnedDatagram) -> bool {
        let mut mail = lock(&self.mail);
        let has_room = mail.len() < MAX_MAIL;
        if has_room {
            mail.push(datagram);
        }
        drop(mail);
        self.has_mail.store(true, Ordering::Release);
        self.wake();
        has_room
    }

    /// Takes all mail.
    pub fn take(&self) -> Vec<OwnedDatagram> {
        if !self.has_mail.swap(false, Ordering::AcqRel) {
            return Vec::new();
        }
        std::mem::take(&mut lock(&self.mail))
    }

    /// Wakes the receiver if it waits, or keeps its next wait from blocking.
    pub fn wake(&self) {
        if !self.is_woken.swap(true, Ordering::AcqRel) {
            self.wake_fd.signal();
        }
    }

    /// Readable while the receiver is woken.
    pub fn wake_fd(&self) -> BorrowedFd<'_> {
        self.wake_fd.as_fd()
    }

    pub fn is_woken(&self) -> bool {
        self.is_woken.load(Ordering::Acquire)
    }

    /// Ends the wake-up. Call it before looking for work. The order matters: a wake-up
    /// between the two lines is either seen together with its work, or wakes once more.
    pub fn clear_wake(&self) {
        self.wake_fd.clear();
        self.is_woken.swap(false, Ordering::AcqRel);
    }

    /// The number of the latest request to drain the socket; 0 if there was none.
    pub fn drain_request(&self) -> u64 {
        self.requested.load(Ordering::Acquire)
    }

    /// Tells that everything that waited in the socket at that request is handled.
    pub fn meet_drain_request(&self, request: u64) {
        *lock(&self.drained) = request;
        self.met.notify_all();
    }

    /// Asks the receiver to handle everything that waits in its socket now, and waits for
    /// it; false if that takes longer than the patience.
    pub fn drain(&self, patience: Duration) -> bool {
        let request = self.requested.fetch_add(1, Ordering::AcqRel) + 1;
        self.wake();
        let deadline = Instant::now() + patience;
        let mut drained = lock(&self.drained);
        while *drained < request {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let waited = self.met.wait_timeout(drained, left);
            drained = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::poll::Poller;

    /// Two threads wake while a third waits, clears and looks, all as fast as they can.
    #[test]
    fn no_wake_up_is_missed() {
        const EACH: u64 = 100_000;
        let (mailbox, work) = (Mailbox::new().unwrap(), AtomicU64::new(0));
        let poller = Poller::new().unwrap();
        poller.add(mailbox.wake_fd()).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    for round in 0..EACH {
                        work.fetch_add(1, Ordering::Release);
                        mailbox.wake();
                        (0..round % 64).for_each(|_| std::hint::spin_loop());
                    }
                });
            }
            let mut seen = 0;
            while seen < 2 * EACH {
                let is_woken = poller.wait(Duration::from_secs(5)).unwrap();
                assert!(is_woken, "{seen} of {}", 2 * EACH);
                mailbox.clear_wake();
                seen = work.load(Ordering::Acquire);
            }
        });
    }
}
