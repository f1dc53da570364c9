//! A thread-per-core runtime on top of `laminar_xdp::Ingest`: one thread on each CPU, one
//! socket for each thread, and one handler for each partition. The thread of the CPU that
//! owns a partition calls the partition's handler, so no handler runs on two threads at once.
//! Copy this file as a start. The tests and the example `laminardb-ingest` also use it.

use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use laminar_xdp::{
    Datagram, HandOverError, Ingest, IngestConfig, IngestStats, Receiver, XdpConfig, XdpError,
};

/// Handles the datagrams of one partition in order. When the partition moves to another CPU,
/// that CPU's thread calls the same handler.
pub type Handler = Box<dyn FnMut(Datagram<'_>) + Send>;

/// The running threads and their ingest. Dropping the runtime stops the threads and closes the
/// port.
pub struct ThreadPerCoreRuntime {
    // Dropped first, because the threads hold the receivers of the ingest.
    threads: Threads,
    ingest: Ingest,
    handlers: Arc<Vec<Mutex<Handler>>>,
}

impl ThreadPerCoreRuntime {
    /// Opens the sockets, attaches XDP if possible, and starts a thread on each CPU.
    /// `handler` makes the handler of each partition.
    pub fn with_xdp(
        config: &IngestConfig,
        xdp_config: &XdpConfig,
        handler: impl FnMut(u32) -> Handler,
    ) -> Result<ThreadPerCoreRuntime, XdpError> {
        Self::start(Ingest::open(config, xdp_config)?, handler)
    }

    /// Takes over from a running process, which calls [`ThreadPerCoreRuntime::hand_over`]
    /// with the other end of the stream.
    pub fn take_over(
        config: &IngestConfig,
        xdp_config: &XdpConfig,
        running: &UnixStream,
        handler: impl FnMut(u32) -> Handler,
    ) -> Result<ThreadPerCoreRuntime, XdpError> {
        Self::start(Ingest::take_over(config, xdp_config, running)?, handler)
    }

    fn start(
        ingest: Ingest,
        handler: impl FnMut(u32) -> Handler,
    ) -> Result<ThreadPerCoreRuntime, XdpError> {
        let handlers = (0..ingest.partitions()).map(handler).map(Mutex::new).collect();
        let (threads, handlers) = (Threads::default(), Arc::new(handlers));
        let mut runtime = ThreadPerCoreRuntime { threads, ingest, handlers };
        runtime.restart_dead()?;
        Ok(runtime)
    }

    /// The counters of XDP and of the sockets.
    pub fn xdp_stats(&self) -> Result<IngestStats, XdpError> {
        self.ingest.stats()
    }

    /// The ingest, for its mode, owners and selection.
    pub fn ingest(&self) -> &Ingest {
        &self.ingest
    }

    /// Moves a partition, with its handler, to another CPU while traffic continues.
    pub fn move_partition(&self, partition: u32, cpu: u32) -> Result<(), XdpError> {
        self.ingest.move_partition(partition, cpu)
    }

    /// The CPUs whose threads have died. Until these threads are restarted, the datagrams of their
    /// partitions wait in the sockets, up to the size of a receive buffer.
    pub fn dead_cpus(&self) -> Vec<u32> {
        let cpus = self.ingest.cpus().iter().copied();
        cpus.filter(|cpu| !self.threads.is_alive(*cpu)).collect()
    }

    /// Starts a new thread for each CPU whose thread has died. The old thread died while handling a
    /// datagram. The new thread continues with the next datagram.
    pub fn restart_dead(&mut self) -> Result<(), XdpError> {
        self.threads.forget_dead();
        let started = self.dead_cpus().into_iter().map(|cpu| self.start_thread(cpu));
        // Collecting the results first tries to start every thread, even if one of them fails.
        started.collect::<Vec<_>>().into_iter().collect()
    }

    /// Hands over to another process, which calls [`ThreadPerCoreRuntime::take_over`]. This process
    /// handles every datagram that it has read from a socket. The other process handles all later
    /// datagrams. The error contains the runtime, which continues to work.
    pub fn hand_over(
        mut self,
        successor: &UnixStream,
    ) -> Result<(), Box<(ThreadPerCoreRuntime, XdpError)>> {
        let offer = match self.ingest.offer(successor) {
            Ok(offer) => offer,
            Err(error) => return Err(Box::new((self, error))),
        };
        self.threads.stop();
        if let Err(error) = self.drain() {
            drop(offer); // withdraws the offer
            return Err(self.resumed(error));
        }
        let ThreadPerCoreRuntime { threads, ingest, handlers } = self;
        ingest.hand_over(offer).map_err(|HandOverError { ingest, error, .. }| {
            ThreadPerCoreRuntime { threads, ingest: *ingest, handlers }.resumed(error)
        })
    }

    /// Restarts the threads, and returns the runtime with the error that stopped them.
    fn resumed(mut self, error: XdpError) -> Box<(ThreadPerCoreRuntime, XdpError)> {
        let restarted = self.restart_dead();
        Box::new((self, restarted.err().unwrap_or(error)))
    }

    /// Handles the datagrams that receivers have read but not handled, for example because a
    /// receiver's thread died. The CPU that owns a partition handles the partition's datagrams.
    fn drain(&self) -> Result<(), XdpError> {
        let mut handled = true;
        // Repeat this until nothing is left, because one receiver may hand on datagrams to another
        // receiver.
        while handled {
            handled = false;
            for cpu in self.ingest.cpus() {
                let mut receiver = self.ingest.receiver(*cpu)?;
                let drain = || {
                    pin(&receiver);
                    receiver.drain(|datagram| handle(&self.handlers, datagram))
                };
                // If the handler panicked, datagrams may be left. A panic therefore counts as
                // progress, and the loop runs again.
                let count = std::thread::scope(|scope| scope.spawn(drain).join());
                handled |= count.ok().is_none_or(|count| count > 0);
            }
        }
        Ok(())
    }

    fn start_thread(&mut self, cpu: u32) -> Result<(), XdpError> {
        let receiver = self.ingest.receiver(cpu)?;
        let (handlers, stop) = (self.handlers.clone(), self.threads.stop.clone());
        let thread = Builder::new()
            .name(format!("ingest-{cpu}"))
            .spawn(move || run(receiver, &handlers, &stop))
            .map_err(|source| XdpError::Kernel {
                action: "start a thread".into(),
                source: Arc::new(source),
            })?;
        self.threads.running.push((cpu, thread));
        Ok(())
    }
}

/// The threads with their CPUs. Dropping this value stops the threads.
#[derive(Default)]
struct Threads {
    running: Vec<(u32, JoinHandle<()>)>,
    stop: Arc<AtomicBool>,
}

impl Threads {
    fn is_alive(&self, cpu: u32) -> bool {
        self.running.iter().any(|(other, thread)| *other == cpu && !thread.is_finished())
    }

    fn forget_dead(&mut self) {
        self.running.retain(|(_, thread)| !thread.is_finished());
    }

    /// Waits until every thread has finished its batch. The result of a thread that died is
    /// ignored, because the thread has already printed its panic.
    fn stop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.running.drain(..).for_each(|(_, thread)| drop(thread.join()));
        self.stop.store(false, Ordering::Release);
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Binds the calling thread to the receiver's CPU, if the kernel allows it.
fn pin(receiver: &Receiver) {
    if let Err(error) = receiver.pin_thread() {
        tracing::warn!(error = %error.with_causes(), "cannot bind the thread to its CPU");
    }
}

/// How often a thread binds itself to its CPU again. When the CPU goes offline, the kernel moves
/// the thread to another CPU, and does not move it back later.
const PIN_INTERVAL: Duration = Duration::from_secs(1);

/// The main loop of each thread.
fn run(mut receiver: Receiver, handlers: &[Mutex<Handler>], stop: &AtomicBool) {
    pin(&receiver);
    let mut pinned = Instant::now();
    while !stop.load(Ordering::Acquire) {
        if pinned.elapsed() > PIN_INTERVAL {
            receiver.pin_thread().ok(); // fails while the CPU is offline
            pinned = Instant::now();
        }
        let timeout = Duration::from_millis(20);
        let received = receiver.receive(timeout, |datagram| handle(handlers, datagram));
        if let Err(error) = received {
            tracing::error!(error = %error.with_causes(), "cannot receive datagrams");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Calls the handler of a datagram's partition. The lock is never contended, because a
/// partition has one owner. A handler that panicked is called again for the next datagram.
fn handle(handlers: &[Mutex<Handler>], datagram: Datagram<'_>) {
    let handler = &handlers[datagram.partition as usize];
    handler.lock().unwrap_or_else(PoisonError::into_inner)(datagram);
}
