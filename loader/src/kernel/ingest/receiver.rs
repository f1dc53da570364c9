//! One core's end of ingest: a socket, and what keeps the order when partitions move.

use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use crate::error::XdpError;
use crate::header::LaminarHeader;
use crate::ingest::Datagram;
use crate::kernel::ingest::turns::{Kept, Turn, Turns};
use crate::kernel::libbpf::datagrams::Batch;
use crate::kernel::libbpf::socket;
use crate::kernel::sockets;

/// A datagram takes at least this much of a socket's buffer, in bytes: the kernel's
/// bookkeeping alone is more.
const LEAST_FOOTPRINT: usize = 512;

/// Receives the datagrams of the partitions that one CPU owns, each once, and those of a
/// sender and partition in the order in which the kernel got them, also while partitions
/// move.
///
/// There is one at a time for each CPU ([`crate::Ingest::receiver`]); it belongs on a
/// thread that is bound to that CPU. When it is dropped, also by a panic, nothing is
/// lost but the datagram at which its handler panicked: the rest waits for the next
/// receiver of that CPU, and what arrives waits in the socket, until its buffer is full.
pub struct Receiver {
    core: u32,
    index: usize,
    socket: Arc<UdpSocket>,
    turns: Arc<Turns>,
    batch: Batch,
    /// The first datagram of the batch that nobody has handled.
    next: usize,
    /// What an earlier receiver or another one left for this one.
    left: VecDeque<Kept>,
    /// Partitions that are coming here, each with its datagrams so far.
    held: Vec<(u32, VecDeque<Kept>)>,
    /// The last request to empty the socket, the datagrams read since, and whether it
    /// was answered.
    request: (u64, usize, bool),
    /// The most datagrams that can have waited in the socket at once.
    capacity: usize,
}

impl Receiver {
    /// The most datagrams that are held back while partitions move, but for what a
    /// receive buffer holds more. From then on the socket is left alone until they have
    /// moved, and what other receivers hand on waits for as long, up to as many again. Of
    /// the longest datagrams that Ethernet has that is some 100 MB.
    pub const MOST_HELD: usize = 65_536;

    /// `None` if the desk is taken.
    pub(super) fn new(
        core: u32,
        index: usize,
        socket: Arc<UdpSocket>,
        turns: Arc<Turns>,
    ) -> Option<Receiver> {
        if !turns.desk(index).take() {
            return None;
        }
        let buffer = sockets::receive_buffer(&socket).unwrap_or(u32::MAX) as usize;
        Some(Receiver {
            core,
            index,
            socket,
            turns,
            batch: Batch::new(),
            next: 0,
            left: VecDeque::new(),
            held: Vec::new(),
            request: (0, 0, true),
            // The kernel takes it twice, and since Linux 6.18 a little more for each node.
            capacity: (buffer / LEAST_FOOTPRINT).saturating_mul(4) + 4,
        })
    }

    /// The CPU whose partitions these are.
    pub fn core(&self) -> u32 {
        self.core
    }

    /// The socket, to wait for it among others or to ask it something. Who waits for it
    /// elsewhere than in [`Receiver::receive`] has to wait for [`Receiver::attention`]
    /// too; while as much as [`Receiver::MOST_HELD`] is held back, the socket stays
    /// readable. Who reads it directly gives up the order when partitions move.
    pub fn socket(&self) -> &UdpSocket {
        &self.socket
    }

    /// Becomes readable when [`Receiver::receive`] is to be called although nothing
    /// waits in the socket: partitions move, or other receivers have something for this
    /// one. `receive` makes it unreadable again.
    pub fn attention(&self) -> BorrowedFd<'_> {
        self.turns.desk(self.index).bell()
    }

    /// Binds the calling thread to the receiver's CPU. If that CPU goes offline the
    /// kernel lets the thread run elsewhere, and it stays there: bind it again when the
    /// CPU is back.
    ///
    /// # Errors
    /// [`XdpError::Kernel`] if the kernel refuses, such as for a CPU outside the
    /// thread's cpuset or from 1024 on.
    pub fn pin_thread(&self) -> Result<(), XdpError> {
        socket::pin_thread(self.core).map_err(|reason| XdpError::Kernel {
            action: format!("bind a thread to CPU {}", self.core),
            reason,
        })
    }

    /// Handles the datagrams that wait, at most [`Receiver::BATCH`] from the socket in
    /// one call; if there are none, waits for so long, in whole milliseconds rounded up,
    /// or not at all for zero. Gives how many were handled. It returns early, with 0, when
    /// something else wants attention: call it again and again.
    ///
    /// # Errors
    /// [`XdpError::Socket`] if the socket cannot be read.
    pub fn receive(
        &mut self,
        timeout: Duration,
        mut handle: impl FnMut(Datagram<'_>),
    ) -> Result<usize, XdpError> {
        if self.turns.desk(self.index).rings() {
            self.turns.desk(self.index).silence();
        }
        let mut handled = self.take_turn(&mut handle)?;
        if handled == 0 {
            if !timeout.is_zero() {
                self.wait(timeout)?;
            }
            self.turns.desk(self.index).silence();
            handled += self.take_turn(&mut handle)?;
        }
        Ok(handled)
    }

    /// Handles what lies beside the socket, left by an earlier receiver of this CPU or
    /// handed over by another's, without reading the socket: the last thing to do before
    /// [`crate::Ingest::hand_over`].
    pub fn handle_left(&mut self, mut handle: impl FnMut(Datagram<'_>)) -> usize {
        let asked = self.turns.desk(self.index).asked();
        self.handle_kept(asked, &mut handle) + self.handle_batch(&mut handle)
    }

    /// The most datagrams that one call takes from the socket.
    pub const BATCH: usize = Batch::SIZE;

    /// First what is here already, then what waits in the socket. A request to empty that
    /// is asked for first: what comes meanwhile is of the next one.
    fn take_turn(&mut self, handle: &mut impl FnMut(Datagram<'_>)) -> Result<usize, XdpError> {
        let asked = self.turns.desk(self.index).asked();
        let handled = self.handle_kept(asked, handle);
        Ok(handled + self.read(asked, handle)?)
    }

    /// What came by other ways than the socket.
    fn handle_kept(&mut self, asked: u64, handle: &mut impl FnMut(Datagram<'_>)) -> usize {
        let mut handled = 0;
        for at in (0..self.held.len()).rev() {
            match self.turns.turn(self.held[at].0, self.index) {
                Turn::Mine => handled += self.release(at, handle),
                Turn::Coming => {}
                // It was called off.
                Turn::Of(_) => self.left.extend(self.held.swap_remove(at).1),
            }
        }
        if !self.pauses(asked) {
            self.left.extend(self.turns.desk(self.index).clear());
        }
        while let Some(kept) = self.left.pop_front() {
            handled += self.take(&kept, handle);
        }
        handled
    }

    /// Handles what was held for a partition that has come.
    fn release(&mut self, at: usize, handle: &mut impl FnMut(Datagram<'_>)) -> usize {
        let mut handled = 0;
        while let Some(kept) = self.held[at].1.pop_front() {
            if let Some(datagram) = parse(kept.sender, &kept.bytes, self.turns.partitions()) {
                handle(datagram);
                handled += 1;
            }
        }
        self.held.swap_remove(at);
        handled
    }

    fn read(
        &mut self,
        asked: u64,
        handle: &mut impl FnMut(Datagram<'_>),
    ) -> Result<usize, XdpError> {
        if self.pauses(asked) {
            return Ok(0);
        }
        // Otherwise a handler that panicked, and was caught, left some of the last batch.
        if self.next >= self.batch.len() {
            self.next = 0;
            match self.batch.receive(self.socket.as_fd()) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.answer(asked, true);
                    return Ok(0);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(0),
                Err(reason) => {
                    let action = format!("read the socket of CPU {}", self.core);
                    return Err(XdpError::socket(action, reason));
                }
            }
        }
        let handled = self.handle_batch(handle);
        self.answer(asked, false);
        Ok(handled)
    }

    /// Handles what was taken from the socket, or what is left of it.
    fn handle_batch(&mut self, handle: &mut impl FnMut(Datagram<'_>)) -> usize {
        let mut handled = 0;
        while self.next < self.batch.len() {
            let at = self.next;
            self.next += 1;
            let Some((sender, bytes)) = self.batch.get(at) else { continue };
            // The filter lets nothing else through.
            let Some(datagram) = parse(sender, bytes, self.turns.partitions()) else { continue };
            let partition = datagram.partition;
            match self.turns.turn(partition, self.index) {
                Turn::Mine if self.held.is_empty() => {
                    handle(datagram);
                    handled += 1;
                }
                _ => {
                    let kept = Kept { sender, bytes: bytes.into() };
                    handled += self.take(&kept, handle);
                }
            }
        }
        handled
    }

    /// Handles a datagram, holds it, or hands it to whom it belongs.
    fn take(&mut self, kept: &Kept, handle: &mut impl FnMut(Datagram<'_>)) -> usize {
        let Kept { sender, bytes } = kept;
        let Some(datagram) = parse(*sender, bytes, self.turns.partitions()) else { return 0 };
        let partition = datagram.partition;
        let held = self.held.iter().position(|(other, _)| *other == partition);
        let copy = || Kept { sender: *sender, bytes: bytes.clone() };
        match self.turns.turn(partition, self.index) {
            Turn::Mine => match held {
                None => {
                    handle(datagram);
                    return 1;
                }
                // The partition has come just now: what was held for it is first.
                Some(at) => {
                    self.held[at].1.push_back(copy());
                    return self.release(at, handle);
                }
            },
            Turn::Coming => match held {
                Some(at) => self.held[at].1.push_back(copy()),
                None => self.held.push((partition, VecDeque::from([copy()]))),
            },
            Turn::Of(other) => self.turns.hand_on(partition, self.index, other, copy()),
        }
        0
    }

    /// Answers a request to empty the socket, once all that waited then is handled: the
    /// socket was found empty, or more was read than it can have held.
    fn answer(&mut self, asked: u64, empty: bool) {
        if self.request.0 != asked {
            self.request = (asked, 0, false);
        }
        let (_, read, answered) = &mut self.request;
        *read += self.batch.len();
        if !*answered && (empty || *read > self.capacity + Self::BATCH) {
            *answered = true;
            self.turns.desk(self.index).emptied(asked);
        }
    }

    /// Whether so much is held that no more is taken. But who asks for the socket to be
    /// emptied gets an answer: what is held may be waiting for just that.
    fn pauses(&self, asked: u64) -> bool {
        let (answered, _, is_answered) = self.request;
        let held: usize = self.held.iter().map(|(_, held)| held.len()).sum();
        held >= Self::MOST_HELD && is_answered && answered == asked
    }

    fn wait(&self, timeout: Duration) -> Result<(), XdpError> {
        let desk = self.turns.desk(self.index);
        let socket = if self.pauses(desk.asked()) { desk.bell() } else { self.socket.as_fd() };
        socket::wait([socket, desk.bell()], timeout).map_err(|reason| {
            XdpError::socket(format!("wait for the socket of CPU {}", self.core), reason)
        })
    }
}

fn parse(sender: SocketAddr, bytes: &[u8], partitions: u32) -> Option<Datagram<'_>> {
    let header = LaminarHeader::from_bytes(bytes).filter(LaminarHeader::validate)?;
    let payload = bytes.get(LaminarHeader::SIZE..)?;
    let partition_key = header.partition_key;
    Some(Datagram { partition: partition_key % partitions, partition_key, sender, payload })
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let held = self.held.drain(..).flat_map(|(_, held)| held);
        let mut unhandled: Vec<_> = held.collect();
        unhandled.extend(self.left.drain(..));
        let rest = (self.next..self.batch.len()).filter_map(|at| self.batch.get(at));
        unhandled.extend(rest.map(|(sender, bytes)| Kept { sender, bytes: bytes.into() }));
        self.turns.desk(self.index).vacate(unhandled);
    }
}

impl std::fmt::Debug for Receiver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Receiver").field("core", &self.core).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
