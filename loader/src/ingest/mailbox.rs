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

/// A datagram in a mailbox.
#[derive(Debug)]
pub struct Mail {
    pub datagram: OwnedDatagram,
    /// Whether the datagram is older than all datagrams of its partition that the mailbox's
    /// receiver holds back or reads from its socket.
    pub is_older: bool,
}

/// The mailbox of each CPU's receiver, and counters of the datagrams handed on.
#[derive(Debug)]
pub struct Mailboxes {
    boxes: Vec<Mailbox>,
    handed_on: AtomicU64,
    misplaced: AtomicU64,
    dropped: AtomicU64,
    dropped_held: AtomicU64,
}

impl Mailboxes {
    /// Makes a mailbox for each CPU. Each mailbox watches the socket of its CPU.
    pub fn new(sockets: &[Arc<UdpSocket>]) -> Result<Mailboxes, XdpError> {
        let boxes = sockets.iter().map(|socket| Mailbox::new(socket)).collect::<io::Result<_>>();
        let boxes = boxes.map_err(|error| XdpError::TooManySockets {
            cpus: sockets.len(),
            source: error.into(),
        })?;
        let [handed_on, misplaced, dropped, dropped_held] = [const { AtomicU64::new(0) }; 4];
        Ok(Mailboxes { boxes, handed_on, misplaced, dropped, dropped_held })
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
        if self.of(to).leave(Mail { datagram, is_older: false }).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Passes a datagram of a moving partition on to the next owner. Gives the datagram back if
    /// the mailbox is full: the datagram then waits in the receiver of the former owner.
    pub fn pass_on(&self, to: CpuIndex, datagram: OwnedDatagram) -> Result<(), OwnedDatagram> {
        self.of(to).leave(Mail { datagram, is_older: true }).map_err(|mail| mail.datagram)
    }

    /// Counts a datagram that a receiver dropped, because it held back too many already.
    pub fn count_dropped_held(&self) {
        self.dropped_held.fetch_add(1, Ordering::Relaxed);
    }

    /// The number of datagrams that receivers dropped, because they held back too many already.
    pub fn dropped_held(&self) -> u64 {
        self.dropped_held.load(Ordering::Relaxed)
    }

    /// The number of datagrams that receivers handed on, including dropped ones.
    pub fn handed_on(&self) -> u64 {
        self.handed_on.load(Ordering::Relaxed)
    }

    /// How many of the datagrams in [`Mailboxes::handed_on`] came from the receiver of a CPU that
    /// is not the first owner of the datagram's partition.
    pub fn misplaced(&self) -> u64 {
        self.misplaced.load(Ordering::Relaxed)
    }

    /// How many of the datagrams in [`Mailboxes::handed_on`] were dropped because the receiving
    /// mailbox was full.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

/// One CPU's mailbox. The mailbox outlives the CPU's receiver, so that the CPU's next receiver
/// gets the datagrams that are left in the mailbox.
#[derive(Debug)]
pub struct Mailbox {
    in_use: AtomicBool,
    /// Whether `mail` may hold datagrams. If false, a receiver need not lock `mail`.
    has_mail: AtomicBool,
    mail: Mutex<Vec<Mail>>,
    /// How many requests to drain the socket were made so far. This is the latest request's
    /// number.
    requested: AtomicU64,
    /// The number of the latest drain request that the receiver has completed.
    drained: Mutex<u64>,
    met: Condvar,
    /// Whether `wake_fd` is signalled. If it is, a further wake-up needs no system call.
    is_woken: AtomicBool,
    wake_fd: EventFd,
    /// Watches `wake_fd` and the socket. The poller is made with the mailbox, so that taking a
    /// receiver opens no further descriptor.
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

    /// Claims the mailbox for a new receiver. Returns false if another receiver holds the
    /// mailbox. If an earlier receiver left mail or an unmet drain request, signals the wake
    /// descriptor. Otherwise a new receiver that waits for its descriptor first would not notice
    /// that work.
    pub fn claim(&self) -> bool {
        if self.in_use.swap(true, Ordering::AcqRel) {
            return false;
        }
        if !self.is_empty() || *lock(&self.drained) < self.drain_request() {
            self.wake();
        }
        true
    }

    /// Ends the receiver's claim. Puts the datagrams that the receiver took but did not handle
    /// back into the mailbox, ahead of newer mail.
    pub fn release(&self, mut unhandled: Vec<Mail>) {
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

    /// Adds a datagram and wakes the receiver. Gives the datagram back if the mailbox is full.
    fn leave(&self, new: Mail) -> Result<(), Mail> {
        let mut mail = lock(&self.mail);
        if mail.len() >= MAX_MAIL {
            return Err(new);
        }
        mail.push(new);
        drop(mail);
        self.has_mail.store(true, Ordering::Release);
        self.wake();
        Ok(())
    }

    /// Whether the mailbox may hold datagrams.
    pub fn has_mail(&self) -> bool {
        self.has_mail.load(Ordering::Acquire)
    }

    /// Takes all mail.
    pub fn take(&self) -> Vec<Mail> {
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

    /// The poller that watches the socket and the mailbox's wake-ups for the receiver.
    pub fn poller(&self) -> &Poller {
        &self.poller
    }

    pub fn is_woken(&self) -> bool {
        self.is_woken.load(Ordering::Acquire)
    }

    /// Ends the wake-up. Call this before looking for work. The descriptor must be cleared before
    /// the flag: if `wake` runs between the two lines, the caller finds the work, or the
    /// descriptor becomes readable once more. In the other order, the flag could stay set after
    /// the descriptor is cleared, and later wake-ups would be lost.
    pub fn clear_wake(&self) {
        self.wake_fd.clear();
        self.is_woken.swap(false, Ordering::AcqRel);
    }

    /// The number of the latest request to drain the socket; 0 if there was none.
    pub fn drain_request(&self) -> u64 {
        self.requested.load(Ordering::Acquire)
    }

    /// Reports that the receiver has taken all datagrams that waited in the socket at the time of
    /// this request, and has passed on those of partitions that move away.
    pub fn meet_drain_request(&self, request: u64) {
        *lock(&self.drained) = request;
        self.met.notify_all();
    }

    /// Asks the receiver to take all datagrams that wait in its socket now. Returns the number of
    /// the request.
    pub fn request_drain(&self) -> u64 {
        let request = self.requested.fetch_add(1, Ordering::AcqRel) + 1;
        self.wake();
        request
    }

    /// Waits until the receiver has met a request. Returns false if that takes longer than
    /// `patience`.
    pub fn wait_drained(&self, request: u64, patience: Duration) -> bool {
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
