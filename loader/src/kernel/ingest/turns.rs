//! Whose turn it is to handle a partition, and what receivers leave for each other.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::error::XdpError;
use crate::kernel::ingest::Receiver;

/// What all receivers share. Receivers go by their core's index.
#[derive(Debug)]
pub struct Turns {
    /// For each partition who handles it (low half), and who will (high half).
    partitions: Vec<AtomicU32>,
    desks: Vec<Desk>,
    handed_on: AtomicU64,
    astray: AtomicU64,
    lost: AtomicU64,
}

/// Whose turn a datagram is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// The one who asks.
    Mine,
    /// Soon that of the one who asks: the former owner has not finished.
    Coming,
    /// Another one's.
    Of(usize),
}

/// A datagram outside of a socket.
#[derive(Debug)]
pub struct Kept {
    pub sender: SocketAddr,
    pub bytes: Box<[u8]>,
}

/// Where one receiver is reached.
#[derive(Debug)]
pub struct Desk {
    taken: AtomicBool,
    /// Something is on it, or is asked.
    attention: AtomicBool,
    left: Mutex<Vec<Kept>>,
    /// How often it was asked to empty its socket.
    asked: AtomicU64,
    /// The last request that was answered.
    emptied: Mutex<u64>,
    answer: Condvar,
    ringing: AtomicBool,
    /// One end rings, the other is waited for.
    bell: (UnixDatagram, UnixDatagram),
}

impl Turns {
    pub fn new(cores: usize, owners: &[usize]) -> Result<Turns, XdpError> {
        let desks = (0..cores).map(|_| Desk::new()).collect::<io::Result<_>>();
        let desks = desks.map_err(|reason| XdpError::TooManySockets { cores, reason })?;
        let owners = owners.iter().map(|owner| AtomicU32::new(both(*owner, *owner)));
        let partitions = owners.collect();
        let [handed_on, astray, lost] = [const { AtomicU64::new(0) }; 3];
        Ok(Turns { partitions, desks, handed_on, astray, lost })
    }

    pub fn partitions(&self) -> u32 {
        self.partitions.len() as u32
    }

    pub fn desk(&self, receiver: usize) -> &Desk {
        &self.desks[receiver]
    }

    pub fn turn(&self, partition: u32, me: usize) -> Turn {
        match self.now_and_next(partition) {
            (now, _) if now == me => Turn::Mine,
            (_, next) if next == me => Turn::Coming,
            (_, next) => Turn::Of(next),
        }
    }

    /// Who handles each partition.
    pub fn owners(&self) -> Vec<usize> {
        (0..self.partitions()).map(|partition| self.now_and_next(partition).0).collect()
    }

    /// Who handles a partition, and who will.
    pub fn now_and_next(&self, partition: u32) -> (usize, usize) {
        let both = self.partitions[partition as usize].load(Ordering::Acquire);
        ((both & 0xffff) as usize, (both >> 16) as usize)
    }

    pub fn set(&self, partition: u32, now: usize, next: usize) {
        self.partitions[partition as usize].store(both(now, next), Ordering::Release);
    }

    /// Puts a datagram on the right receiver's desk, which has room for so many as wait
    /// for a partition that moves.
    pub fn hand_on(&self, partition: u32, from: usize, receiver: usize, datagram: Kept) {
        self.handed_on.fetch_add(1, Ordering::Relaxed);
        if partition as usize % self.desks.len() != from {
            self.astray.fetch_add(1, Ordering::Relaxed);
        }
        if !self.desks[receiver].leave(datagram) {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Datagrams that receivers handed on.
    pub fn handed_on(&self) -> u64 {
        self.handed_on.load(Ordering::Relaxed)
    }

    /// Those of them that were not where their partition starts either.
    pub fn astray(&self) -> u64 {
        self.astray.load(Ordering::Relaxed)
    }

    /// Those of them for which there was no room.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

fn both(now: usize, next: usize) -> u32 {
    (next as u32) << 16 | now as u32
}

impl Desk {
    fn new() -> io::Result<Desk> {
        let bell = UnixDatagram::pair()?;
        bell.0.set_nonblocking(true)?;
        bell.1.set_nonblocking(true)?;
        Ok(Desk {
            taken: AtomicBool::new(false),
            attention: AtomicBool::new(false),
            left: Mutex::new(Vec::new()),
            asked: AtomicU64::new(0),
            emptied: Mutex::new(0),
            answer: Condvar::new(),
            ringing: AtomicBool::new(false),
            bell,
        })
    }

    /// Makes the caller its receiver; false if there is one.
    pub fn take(&self) -> bool {
        !self.taken.swap(true, Ordering::AcqRel)
    }

    /// The receiver goes, and leaves what it took from its socket to the next one, in
    /// front of what is there.
    pub fn vacate(&self, mut unhandled: Vec<Kept>) {
        let mut left = lock(&self.left);
        unhandled.append(&mut left);
        self.attention.store(!unhandled.is_empty(), Ordering::Release);
        *left = unhandled;
        drop(left);
        self.taken.store(false, Ordering::Release);
    }

    /// Whether a receiver would find something here.
    pub fn has_something(&self) -> bool {
        !lock(&self.left).is_empty()
    }

    pub fn is_taken(&self) -> bool {
        self.taken.load(Ordering::Acquire)
    }

    /// False if there is no room.
    fn leave(&self, datagram: Kept) -> bool {
        let mut left = lock(&self.left);
        let room = left.len() < Receiver::MOST_HELD;
        if room {
            left.push(datagram);
        }
        drop(left);
        self.attention.store(true, Ordering::Release);
        self.ring();
        room
    }

    /// Takes what lies there.
    pub fn clear(&self) -> Vec<Kept> {
        if !self.attention.swap(false, Ordering::AcqRel) {
            return Vec::new();
        }
        std::mem::take(&mut lock(&self.left))
    }

    /// Wakes the receiver.
    pub fn ring(&self) {
        if !self.ringing.swap(true, Ordering::AcqRel) {
            self.bell.0.send(&[0]).ok();
        }
    }

    pub fn bell(&self) -> BorrowedFd<'_> {
        self.bell.1.as_fd()
    }

    pub fn rings(&self) -> bool {
        self.ringing.load(Ordering::Acquire)
    }

    /// Before looking for what it rang for, so that nothing is missed. In this order: whoever
    /// rings in between is either seen with what it rang for, or rings once too often.
    pub fn silence(&self) {
        while self.bell.1.recv(&mut [0]).is_ok() {}
        self.ringing.swap(false, Ordering::AcqRel);
    }

    /// The latest request to empty the socket; 0 is none.
    pub fn asked(&self) -> u64 {
        self.asked.load(Ordering::Acquire)
    }

    /// Says that whatever waited in the socket at that request has been handled.
    pub fn emptied(&self, request: u64) {
        *lock(&self.emptied) = request;
        self.answer.notify_all();
    }

    /// Has the receiver handle everything that waits in its socket now; false if it does
    /// not within that time.
    pub fn ask_to_empty(&self, patience: Duration) -> bool {
        let request = self.asked.fetch_add(1, Ordering::AcqRel) + 1;
        self.ring();
        let deadline = Instant::now() + patience;
        let mut emptied = lock(&self.emptied);
        while *emptied < request {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let waited = self.answer.wait_timeout(emptied, left);
            emptied = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }
}

/// Whoever panicked with the lock left what it holds whole.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::libbpf::socket;

    /// Two ring while one waits, silences and looks, as fast as they can.
    #[test]
    fn nobody_rings_in_vain() {
        const EACH: u64 = 100_000;
        let (desk, work) = (Desk::new().unwrap(), AtomicU64::new(0));
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    for round in 0..EACH {
                        work.fetch_add(1, Ordering::Release);
                        desk.ring();
                        (0..round % 64).for_each(|_| std::hint::spin_loop());
                    }
                });
            }
            let mut seen = 0;
            while seen < 2 * EACH {
                let begin = Instant::now();
                socket::wait([desk.bell(), desk.bell()], Duration::from_secs(5)).unwrap();
                assert!(begin.elapsed() < Duration::from_secs(5), "{seen} of {}", 2 * EACH);
                desk.silence();
                seen = work.load(Ordering::Acquire);
            }
        });
    }
}
