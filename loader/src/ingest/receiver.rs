//! The receiver of one CPU: it reads the CPU's socket, and keeps the order of datagrams
//! while partitions move.

mod drain_progress;
mod routing;
mod waiting;

use std::fmt;
use std::net::UdpSocket;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use crate::ids::{CpuId, CpuIndex, Partition};
use crate::ingest::datagram::{OwnedDatagram, parse};
use crate::ingest::mailbox::{MAX_MAIL, Mail, Mailbox, Mailboxes};
use crate::ingest::ownership::{Ownership, Role};
use crate::ingest::receiver::drain_progress::DrainProgress;
use crate::ingest::receiver::waiting::Waiting;
use crate::ingest::sockets;
use crate::report::{Datagram, Received, XdpError};
use crate::sys::datagrams::Batch;
use crate::sys::thread;

/// The most ready datagrams that one call of [`Receiver::receive`] handles. It is twice the size of
/// a batch: so the number of ready datagrams shrinks, even if each datagram that a call reads from
/// the socket must wait behind them.
const READY_SHARE: usize = 2 * Batch::SIZE;
/// How long a receiver waits before it tries again to pass datagrams on.
const RETRY_AFTER: Duration = Duration::from_millis(1);

/// Receives the datagrams of the partitions that one CPU owns, each datagram exactly once. The
/// datagrams of one sender and partition keep the order in which the kernel received them, even
/// while partitions move.
///
/// Each CPU has at most one receiver at a time ([`crate::Ingest::receiver`]). Run the receiver on
/// a thread that is bound to that CPU. If the handler panics and the panic drops the receiver,
/// only the datagram that the handler was given is lost. Otherwise dropping a receiver loses
/// nothing: the CPU's next receiver gets the datagrams that were not handled, and new datagrams
/// wait in the socket until its buffer is full.
///
/// ```no_run
/// # use laminar_xdp::{Ingest, XdpError};
/// # use std::time::Duration;
/// # fn f(ingest: &Ingest) -> Result<(), XdpError> {
/// let mut receiver = ingest.receiver(2)?; // on the thread for CPU 2
/// receiver.pin_thread()?;
/// loop {
///     receiver.receive(Duration::from_millis(20), |datagram| {
///         println!("partition {}: {} bytes", datagram.partition, datagram.payload.len());
///     })?;
/// }
/// # }
/// ```
pub struct Receiver {
    cpu: CpuId,
    index: CpuIndex,
    socket: Arc<UdpSocket>,
    ownership: Arc<Ownership>,
    mailboxes: Arc<Mailboxes>,
    batch: Batch,
    /// The index in `batch` of the first datagram that is not handled yet.
    next: usize,
    waiting: Waiting,
    drain: DrainProgress,
}

impl Receiver {
    /// The most datagrams that one call of [`Receiver::receive`] reads from the socket.
    pub const BATCH: usize = Batch::SIZE;

    /// The most datagrams that a receiver holds back. It holds back the datagrams of partitions
    /// that are moving to its CPU. Further datagrams of these partitions are dropped and counted
    /// ([`crate::IngestStats::dropped_held`]); other partitions are not affected. `MAX_HELD`
    /// datagrams of the greatest length that fits into an Ethernet frame take about 100 MB.
    pub const MAX_HELD: usize = MAX_MAIL;

    /// Fails with [`XdpError::ReceiverInUse`] if the CPU has a receiver.
    pub(super) fn new(
        cpu: CpuId,
        index: CpuIndex,
        socket: Arc<UdpSocket>,
        ownership: Arc<Ownership>,
        mailboxes: Arc<Mailboxes>,
    ) -> Result<Receiver, XdpError> {
        let buffer = sockets::receive_buffer(&socket).unwrap_or(u32::MAX) as usize;
        if !mailboxes.of(index).claim() {
            return Err(XdpError::ReceiverInUse { cpu: cpu.get() });
        }
        Ok(Receiver {
            cpu,
            index,
            socket,
            ownership,
            mailboxes,
            batch: Batch::new(),
            next: 0,
            waiting: Waiting::default(),
            drain: DrainProgress::new(buffer),
        })
    }

    /// The id of the CPU whose partitions this receiver handles.
    pub fn cpu(&self) -> u32 {
        self.cpu.get()
    }

    /// The socket, for its options and its address. To wait for datagrams, use
    /// [`Receiver::receive`] or the receiver's own descriptor ([`AsFd`]). Reading the
    /// socket directly gives up the order while partitions move.
    pub fn socket(&self) -> &UdpSocket {
        &self.socket
    }

    /// Binds the calling thread to the receiver's CPU. If that CPU goes offline, the
    /// kernel moves the thread to another CPU and never moves it back: call this again when
    /// the CPU is online.
    ///
    /// # Errors
    /// [`XdpError::Kernel`] if the kernel refuses, for example because the CPU is outside
    /// the thread's cpuset, or its id is 1024 or higher.
    pub fn pin_thread(&self) -> Result<(), XdpError> {
        thread::pin_thread(self.cpu)
            .map_err(|error| XdpError::kernel(format!("bind a thread to CPU {}", self.cpu), error))
    }

    /// Calls `handle` for waiting datagrams. Reads at most [`Receiver::BATCH`] datagrams from the
    /// socket; in addition handles at most twice as many that other receivers handed on or that
    /// waited for a move. If no datagram waits, blocks until one arrives, another receiver or a
    /// move wakes this receiver, or the timeout ends. The timeout is rounded up to whole
    /// milliseconds; a timeout of zero never blocks.
    ///
    /// The call may return early with nothing handled, so call it in a loop. A caller that waits
    /// for the receiver's descriptor ([`AsFd`]) instead calls this with a zero timeout until
    /// [`Received::drained`] is true, and only then waits again.
    ///
    /// While a partition moves away from this CPU, a call may read the whole socket: it passes the
    /// partition's datagrams on to the new owner, and keeps the others for later calls.
    ///
    /// # Errors
    /// [`XdpError::Socket`] if the socket cannot be read.
    pub fn receive(
        &mut self,
        timeout: Duration,
        mut handle: impl FnMut(Datagram<'_>),
    ) -> Result<Received, XdpError> {
        if self.mailbox().is_woken() {
            self.mailbox().clear_wake();
        }
        let received = self.handle_available(&mut handle)?;
        if received.handled > 0 {
            return Ok(received);
        }
        if !timeout.is_zero() {
            self.wait(timeout)?;
        }
        // Cleared even if `is_woken` is false: `wake` signals the descriptor after it sets
        // `is_woken`, so the descriptor may still be signalled. Every later wait would then
        // return at once.
        self.mailbox().clear_wake();
        self.handle_available(&mut handle)
    }

    /// Handles the datagrams that an earlier receiver of this CPU left or that other receivers
    /// handed on, without reading the socket. Returns the number of datagrams handled. Call this
    /// on each receiver before [`crate::Ingest::hand_over`]. Never blocks.
    pub fn drain(&mut self, mut handle: impl FnMut(Datagram<'_>)) -> usize {
        let mut handled = self.handle_batch(&mut handle);
        loop {
            self.settle();
            match self.handle_ready(&mut handle) {
                0 => return handled,
                more => handled += more,
            }
        }
    }

    /// Handles the datagrams that are ready, then those in the socket. The number of the drain
    /// request is read first: a request that is made later covers datagrams that arrive after
    /// these reads, so this call cannot meet that request.
    fn handle_available(
        &mut self,
        handle: &mut impl FnMut(Datagram<'_>),
    ) -> Result<Received, XdpError> {
        let request = self.mailbox().drain_request();
        self.settle();
        if !self.drain.is_met(request) {
            self.drain_socket(request)?;
        }
        let ready = self.handle_ready(handle);
        let (read, is_empty) = self.read_socket(handle)?;
        let drained = is_empty && self.waiting.ready() == 0;
        Ok(Received { handled: ready + read, drained })
    }

    /// Handles at most [`READY_SHARE`] of the datagrams that are ready.
    fn handle_ready(&mut self, handle: &mut impl FnMut(Datagram<'_>)) -> usize {
        let (ownership, index) = (&self.ownership, self.index);
        let is_own = |p| matches!(ownership.role(p, index), Role::Owner | Role::NextOwner);
        for handled in 0..READY_SHARE {
            match self.waiting.pop_ready(is_own) {
                Some(datagram) => handle(datagram.as_datagram()),
                None => return handled,
            }
        }
        READY_SHARE
    }

    /// Reads and handles one batch. Returns the number of datagrams handled, and whether the
    /// socket is empty.
    fn read_socket(
        &mut self,
        handle: &mut impl FnMut(Datagram<'_>),
    ) -> Result<(usize, bool), XdpError> {
        if self.is_full() {
            return Ok((0, false));
        }
        // If the handler panicked and the caller caught the panic, a part of the last batch is
        // left. That part is handled before the socket is read again.
        if self.next >= self.batch.len() && !self.read_batch()? {
            return Ok((0, true));
        }
        Ok((self.handle_batch(handle), false))
    }

    /// Handles the datagrams of the batch that are not handled yet.
    fn handle_batch(&mut self, handle: &mut impl FnMut(Datagram<'_>)) -> usize {
        let mut handled = 0;
        while self.next < self.batch.len() {
            let at = self.next;
            self.next += 1;
            let Some((sender, bytes)) = self.batch.get(at) else { continue };
            // The socket's filter drops invalid datagrams, so this does not skip any.
            let Some(datagram) = parse(sender, bytes, self.ownership.count()) else { continue };
            let partition = Partition::new(datagram.partition);
            let is_owner = self.role(partition) == Role::Owner;
            // The mailbox is asked after the role: see `routing`.
            let has_mail = self.mailbox().has_mail();
            if is_owner && !has_mail && !self.waiting.contains(partition) {
                handle(datagram);
                handled += 1;
                continue;
            }
            let datagram = OwnedDatagram::from(datagram);
            if has_mail {
                self.settle();
            }
            self.accept(datagram);
        }
        handled
    }

    fn wait(&mut self, timeout: Duration) -> Result<(), XdpError> {
        // Ready datagrams that could not be passed on wait for room in a mailbox. Nothing wakes
        // this receiver when there is room.
        let timeout = if self.waiting.ready() > 0 { timeout.min(RETRY_AFTER) } else { timeout };
        let waited = self.mailbox().poller().wait(timeout).map(drop);
        waited.map_err(|error| {
            XdpError::socket(format!("wait for the socket of CPU {}", self.cpu), error)
        })
    }

    fn mailbox(&self) -> &Mailbox {
        self.mailboxes.of(self.index)
    }
}

/// The receiver's descriptor is readable when [`Receiver::receive`] has something to do:
/// datagrams wait in the socket, other receivers handed on datagrams to this one, or a move needs
/// this receiver. Wait for the descriptor with poll, epoll or an async runtime; do not read it.
impl AsFd for Receiver {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.mailbox().poller().as_fd()
    }
}

/// The same descriptor as [`Receiver::as_fd`]. It stays open and does not change until the
/// receiver is dropped.
impl AsRawFd for Receiver {
    fn as_raw_fd(&self) -> RawFd {
        self.mailbox().poller().as_fd().as_raw_fd()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let (ready, held) = self.waiting.take_all();
        let newer = held.into_iter().chain(std::iter::from_fn(|| self.next_of_batch()));
        let ready = ready.into_iter().map(|datagram| Mail { datagram, is_older: true });
        let newer = newer.map(|datagram| Mail { datagram, is_older: false });
        let unhandled = ready.chain(newer).collect();
        self.mailbox().release(unhandled);
    }
}

impl fmt::Debug for Receiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receiver").field("cpu", &self.cpu).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
