//! Messages to a receiver from other threads: datagrams that another receiver hands on,
//! requests to drain the socket, and a descriptor that wakes a waiting receiver.

use std::io;
use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::ids::CpuIndex;
use crate::ingest::datagram::OwnedDatagram;
use crate::report::XdpError;
use crate::sync::lock;
use crate::sys::poll::{EventFd, Poller};

/// The most datagrams that one mailbox holds.
pub const MAX_MAIL: usize = 65_536;

/// The mailbox of each CPU's receiver, and counters of the datagrams handed on.
#[derive(Debug)]
pub struct Mailboxes {
    boxes: Vec<Mailbox>,
    handed_on: AtomicU64,
    misplaced: AtomicU64,
    dropped: AtomicU64,
}

impl Mailboxes {
    /// A mailbox for each CPU. Each watches the CPU's socket.
    pub fn new(sockets: &[Arc<UdpSocket>]) -> Result<Mailboxes, XdpError> {
        let boxes = sockets.iter().map(|socket| Mailbox::new(socket)).collect::<io::Result<_>>();
        let boxes = boxes.map_err(|error| XdpError::TooManySockets {
            cpus: sockets.len(),
            source: error.into(),
        })?;
        let [handed_on, misplaced, dropped] = [const { AtomicU64::new(0) }; 3];
        Ok(Mailboxes { boxes, handed_on, misplaced, dropped })
    }

    pub fn of(&self, cpu: CpuIndex) -> &Mailbox {
        &self.boxes[usize::from(cpu.get())]
    }

    /// Puts a datagram into the mailbox of another CPU's receiver. If that mailbox is full,
    /// the datagram is dropped and counted.
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

    /// The number of datagrams that receivers handed on, including dropped ones.
    pub fn handed_on(&self) -> u64 {
        self.handed_on.load(Ordering::Relaxed)
    }

    /// How many of [`Mailboxes::handed_on`] were handed on by a CPU that is not the first
    /// owner of their partition.
    pub fn misplaced(&self) -> u64 {
        self.misplaced.load(Ordering::Relaxed)
    }

    /// How many of [`Mailboxes::handed_on`] were dropped because the mailbox was full.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

/// One CPU's mailbox. It outlives the CPU's receiver, so that the next receiver gets the
/// datagrams that are left in it.
#[derive(Debug)]
pub struct Mailbox {
    in_use: AtomicBool,
    /// Whether `mail` may hold datagrams. Saves taking the lock on each call of a receiver.
    has_mail: AtomicBool,
    mail: Mutex<Vec<OwnedDatagram>>,
    /// The number of requests so far to drain the socket.
    requested: AtomicU64,
    /// The number of the last of these requests that the receiver has met.
    drained: Mutex<u64>,
    met: Condvar,
    /// Whether `wake_fd` is signalled: saves a system call for each further wake-up.
    is_woken: AtomicBool,
    wake_fd: EventFd,
    /// Watches `wake_fd` and the socket. It exists from the start, so that a receiver needs no
    /// further descriptor.
    poller: Poller,
}

impl Mailbox {
    fn new(socket: &UdpSocket) -> io::Result<Mailbox> {
        let (poller, wake_fd) = (Poller::new()?, EventFd::new()?);
        poller.add(socket)?;
        poller.add(&wake_fd)?;
        Ok(Mailbox {
            in_use: AtomicBool::new(false),
            has_mail: AtomicBool::new(false),
            mail: Mutex::new(Vec::new()),
            requested: AtomicU64::new(0),
            drained: Mutex::new(0),
            met: Condvar::new(),
            is_woken: AtomicBool::new(false),
            wake_fd,
            poller,
        })
    }

    /// Makes the caller the mailbox's receiver; false if another receiver holds it. If an
    /// earlier receiver left mail or drain requests, this wakes the new receiver, because it
    /// may wait for the descriptor before it looks for them.
    pub fn claim(&self) -> bool {
        if self.in_use.swap(true, Ordering::AcqRel) {
            return false;
        }
        if !self.is_empty() || *lock(&self.drained) < self.drain_request() {
            self.wake();
        }
        true
    }

    /// Ends the receiver's claim. Puts back the datagrams that it took and did not handle,
    /// ahead of newer mail.
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

    /// Wakes the receiver. If it is not waiting, its next wait returns at once.
    pub fn wake(&self) {
        if !self.is_woken.swap(true, Ordering::AcqRel) {
            self.wake_fd.signal();
        }
    }

    /// Watches the socket and the mailbox's wake-ups for the receiver.
    pub fn poller(&self) -> &Poller {
        &self.poller
    }

    pub fn is_woken(&self) -> bool {
        self.is_woken.load(Ordering::Acquire)
    }

    /// Ends the wake-up. Call it before looking for work. The order of the two lines matters:
    /// if `wake` runs between them, the caller finds the work, or the descriptor becomes
    /// readable once more.
    pub fn clear_wake(&self) {
        self.wake_fd.clear();
        self.is_woken.swap(false, Ordering::AcqRel);
    }

    /// The number of the latest request to drain the socket; 0 if there was none.
    pub fn drain_request(&self) -> u64 {
        self.requested.load(Ordering::Acquire)
    }

    /// Reports that the datagrams that waited in the socket at that request are handled.
    pub fn meet_drain_request(&self, request: u64) {
        *lock(&self.drained) = request;
        self.met.notify_all();
    }

    /// Asks the receiver to handle all datagrams that wait in its socket now, and waits until
    /// it has. Returns false if that takes longer than `patience`.
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

    /// Two threads call `wake` while a third waits, clears and reads, all as fast as possible.
    #[test]
    fn no_wake_up_is_missed() {
        const EACH: u64 = 100_000;
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let (mailbox, work) = (Mailbox::new(&socket).unwrap(), AtomicU64::new(0));
        let poller = mailbox.poller();
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
