//! The receiver of one CPU: it reads the CPU's socket, and keeps the order of datagrams
//! while partitions move.

mod drain_progress;
mod held;

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::net::UdpSocket;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use crate::ids::{CpuId, CpuIndex, Partition};
use crate::ingest::datagram::{OwnedDatagram, parse};
use crate::ingest::mailbox::{MAX_MAIL, Mailbox, Mailboxes};
use crate::ingest::ownership::{Ownership, Role};
use crate::ingest::receiver::drain_progress::DrainProgress;
use crate::ingest::receiver::held::Held;
use crate::ingest::sockets;
use crate::report::{Datagram, Received, XdpError};
use crate::sys::datagrams::Batch;
use crate::sys::thread;

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
    /// Whether the mailbox's poller watches the socket.
    watches_socket: bool,
    batch: Batch,
    /// The index in `batch` of the first datagram that is not handled yet.
    next: usize,
    /// Datagrams that were taken from the mailbox and are not handled yet.
    mail: VecDeque<OwnedDatagram>,
    held: Held,
    drain: DrainProgress,
}

impl Receiver {
    /// The most datagrams that one call of [`Receiver::receive`] reads from the socket.
    pub const BATCH: usize = Batch::SIZE;

    /// The number of held datagrams at which the receiver stops reading its socket until a move
    /// completes. A receiver holds the datagrams of partitions that are moving to its CPU. The
    /// receiver may hold more than this number: in addition, the content of one receive buffer,
    /// and up to `MAX_HELD` datagrams from other receivers. `MAX_HELD` datagrams of the greatest
    /// length that fits into an Ethernet frame take about 100 MB.
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
        let mut receiver = Receiver {
            cpu,
            index,
            socket,
            ownership,
            mailboxes,
            // A former receiver may have been dropped while the poller did not watch the socket.
            // With false, `watch_socket` below enables watching in any case.
            watches_socket: false,
            batch: Batch::new(),
            next: 0,
            mail: VecDeque::new(),
            held: Held::default(),
            drain: DrainProgress::new(buffer, Self::BATCH),
        };
        receiver.watch_socket(true)?;
        Ok(receiver)
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

    /// Calls `handle` for each waiting datagram. Reads at most [`Receiver::BATCH`] datagrams from
    /// the socket. If no datagram waits, blocks until one arrives, another receiver or a move
    /// wakes this receiver, or the timeout ends. The timeout is rounded up to whole milliseconds;
    /// a timeout of zero never blocks.
    ///
    /// The call may return early with nothing handled, so call it in a loop. A caller that waits
    /// for the receiver's descriptor ([`AsFd`]) instead calls this with a zero timeout until
    /// [`Received::drained`] is true, and only then waits again.
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
        let mut received = self.handle_available(&mut handle)?;
        if received.handled == 0 {
            if !timeout.is_zero() {
                self.wait(timeout)?;
            }
            // Cleared even if `is_woken` is false: `wake` signals the descriptor after it sets
            // `is_woken`, so the descriptor may still be signalled. Every later wait would
            // then return at once.
            self.mailbox().clear_wake();
            received = self.handle_available(&mut handle)?;
        }
        self.watch_socket(!self.is_paused(self.mailbox().drain_request()))?;
        Ok(received)
    }

    /// Handles the datagrams that an earlier receiver of this CPU left or that other receivers
    /// handed on, without reading the socket. Returns the number of datagrams handled. Call this
    /// on each receiver before [`crate::Ingest::hand_over`]. Never blocks.
    pub fn drain(&mut self, mut handle: impl FnMut(Datagram<'_>)) -> usize {
        let request = self.mailbox().drain_request();
        self.handle_mail(request, &mut handle) + self.handle_batch(&mut handle)
    }

    /// Handles first the mail, then the datagrams in the socket. The number of the drain request
    /// is read before both: a request that is made later covers datagrams that arrive after these
    /// reads, so this call cannot meet that request.
    fn handle_available(
        &mut self,
        handle: &mut impl FnMut(Datagram<'_>),
    ) -> Result<Received, XdpError> {
        let request = self.mailbox().drain_request();
        let from_mail = self.handle_mail(request, handle);
        let from_socket = self.read_socket(request, handle)?;
        Ok(Received { handled: from_mail + from_socket.handled, ..from_socket })
    }

    fn handle_mail(&mut self, request: u64, handle: &mut impl FnMut(Datagram<'_>)) -> usize {
        let mut handled = 0;
        for partition in self.held.partitions() {
            match self.ownership.role(partition, self.index) {
                Role::Owner => handled += self.release_held(partition, handle),
                Role::NextOwner => {}
                // The move was cancelled.
                Role::Other(_) => {
                    self.mail.extend(std::iter::from_fn(|| self.held.pop(partition)));
                }
            }
        }
        if !self.is_paused(request) {
            let mail = self.mailbox().take();
            self.mail.extend(mail);
        }
        while let Some(datagram) = self.mail.pop_front() {
            handled += self.dispatch(datagram, handle);
        }
        handled
    }

    /// Handles the held datagrams of a partition whose move has completed.
    fn release_held(
        &mut self,
        partition: Partition,
        handle: &mut impl FnMut(Datagram<'_>),
    ) -> usize {
        let mut handled = 0;
        while let Some(datagram) = self.held.pop(partition) {
            handle(datagram.as_datagram());
            handled += 1;
        }
        handled
    }

    fn read_socket(
        &mut self,
        request: u64,
        handle: &mut impl FnMut(Datagram<'_>),
    ) -> Result<Received, XdpError> {
        if self.is_paused(request) {
            // There is nothing to do until a move ends. The end of the move wakes the receiver.
            return Ok(Received { handled: 0, drained: true });
        }
        // If the handler panicked and the caller caught the panic, a part of the last batch is
        // left. That part is handled before the socket is read again.
        if self.next >= self.batch.len() {
            self.next = 0;
            match self.batch.receive(self.socket.as_fd()) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.note_read(request, 0, true);
                    return Ok(Received { handled: 0, drained: true });
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                    return Ok(Received { handled: 0, drained: false });
                }
                Err(error) => {
                    let action = format!("read the socket of CPU {}", self.cpu);
                    return Err(XdpError::socket(action, error));
                }
            }
        }
        let handled = self.handle_batch(handle);
        self.note_read(request, self.batch.len(), false);
        Ok(Received { handled, drained: false })
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
            if self.held.is_empty() && self.ownership.role(partition, self.index) == Role::Owner {
                handle(datagram);
                handled += 1;
            } else {
                let datagram = OwnedDatagram::from(datagram);
                handled += self.dispatch(datagram, handle);
            }
        }
        handled
    }

    /// Handles a datagram, holds it, or hands it on. Returns the number of datagrams handled,
    /// including held datagrams that this call released.
    fn dispatch(
        &mut self,
        datagram: OwnedDatagram,
        handle: &mut impl FnMut(Datagram<'_>),
    ) -> usize {
        let partition = datagram.partition;
        match self.ownership.role(partition, self.index) {
            // The move has just completed. The held datagrams are older than this one and come
            // first.
            Role::Owner if self.held.contains(partition) => {
                self.held.push(datagram);
                return self.release_held(partition, handle);
            }
            Role::Owner => {
                handle(datagram.as_datagram());
                return 1;
            }
            Role::NextOwner => self.held.push(datagram),
            Role::Other(cpu) => self.mailboxes.hand_on(self.index, cpu, datagram),
        }
        0
    }

    fn note_read(&mut self, request: u64, read: usize, is_empty: bool) {
        if self.drain.meets(request, read, is_empty) {
            self.mailbox().meet_drain_request(request);
        }
    }

    /// Whether the receiver holds too many datagrams to read more. False while a drain request is
    /// not met: the move that would release the held datagrams may wait for that request.
    fn is_paused(&self, request: u64) -> bool {
        self.held.len() >= Self::MAX_HELD && self.drain.is_met(request)
    }

    fn wait(&mut self, timeout: Duration) -> Result<(), XdpError> {
        self.watch_socket(!self.is_paused(self.mailbox().drain_request()))?;
        let waited = self.mailbox().poller().wait(timeout).map(drop);
        waited.map_err(|error| {
            XdpError::socket(format!("wait for the socket of CPU {}", self.cpu), error)
        })
    }

    /// Sets whether datagrams in the socket make the descriptor readable. Wake-ups always do.
    fn watch_socket(&mut self, watch: bool) -> Result<(), XdpError> {
        if self.watches_socket != watch {
            self.mailbox().poller().set_enabled(self.socket.as_fd(), watch).map_err(|error| {
                XdpError::socket(format!("watch the socket of CPU {}", self.cpu), error)
            })?;
            self.watches_socket = watch;
        }
        Ok(())
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
        let mut unhandled: Vec<_> = self.held.take_all().collect();
        unhandled.extend(self.mail.drain(..));
        let rest = (self.next..self.batch.len()).filter_map(|at| self.batch.get(at));
        let partitions = self.ownership.count();
        let rest = rest.filter_map(|(sender, bytes)| parse(sender, bytes, partitions));
        unhandled.extend(rest.map(OwnedDatagram::from));
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
