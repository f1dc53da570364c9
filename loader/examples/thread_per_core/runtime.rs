//! A thread-per-core runtime on top of `laminar_xdp::Ingest`: a thread bound to each CPU,
//! one socket each, and a handler for each partition that is called on the CPU that owns
//! it, never by two at once. A model to copy; the tests drive it, and so does the example
//! `laminardb-ingest`.

use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use laminar_xdp::{Datagram, Ingest, IngestConfig, IngestStats, Receiver, XdpConfig, XdpError};

/// Handles the datagrams of one partition, in their order. It goes with the partition
/// when that moves to another CPU.
pub type Handler = Box<dyn FnMut(Datagram<'_>) + Send>;

/// Threads at work. Dropping it stops them and closes the port.
pub struct ThreadPerCoreRuntime {
    ingest: Ingest,
    handlers: Arc<Vec<Mutex<Handler>>>,
    stop: Arc<AtomicBool>,
    threads: Vec<(u32, JoinHandle<()>)>,
}

impl ThreadPerCoreRuntime {
    /// Opens the sockets, attaches XDP where it can, and starts a thread on each CPU.
    /// `handler` makes the handler of each partition.
    pub fn with_xdp(
        config: &IngestConfig,
        xdp_config: &XdpConfig,
        handler: impl FnMut(u32) -> Handler,
    ) -> Result<ThreadPerCoreRuntime, XdpError> {
        Self::start(Ingest::open(config, xdp_config)?, handler)
    }

    /// The same, but everything is taken over from a running process, which calls
    /// [`ThreadPerCoreRuntime::hand_over`] with the other end of the stream.
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
        let mut runtime = ThreadPerCoreRuntime {
            ingest,
            handlers: Arc::new(handlers),
            stop: Arc::default(),
            threads: Vec::new(),
        };
        runtime.restart_dead()?;
        Ok(runtime)
    }

    /// What both layers counted.
    pub fn xdp_stats(&self) -> Result<IngestStats, XdpError> {
        self.ingest.stats()
    }

    /// The mode, the owners, the selection.
    pub fn ingest(&self) -> &Ingest {
        &self.ingest
    }

    /// Moves a partition, with its handler, to another CPU while traffic goes on.
    pub fn move_partition(&self, partition: u32, core: u32) -> Result<(), XdpError> {
        self.ingest.move_partition(partition, core)
    }

    /// The CPUs whose threads have died. Until they are started again, the datagrams of
    /// their partitions wait in their sockets, as many as a receive buffer holds.
    pub fn dead_cores(&self) -> Vec<u32> {
        let lives = |core: &u32| {
            self.threads.iter().any(|(other, thread)| other == core && !thread.is_finished())
        };
        self.ingest.cores().iter().copied().filter(|core| !lives(core)).collect()
    }

    /// Starts the threads of those CPUs, again if they died. They go on with the datagram behind the
    /// one at which they died.
    pub fn restart_dead(&mut self) -> Result<(), XdpError> {
        self.threads.retain(|(_, thread)| !thread.is_finished());
        let started = self.dead_cores().into_iter().map(|core| self.start_thread(core));
        // All of them, whatever becomes of one.
        started.collect::<Vec<_>>().into_iter().collect()
    }

    /// Has another process take over, which calls [`ThreadPerCoreRuntime::take_over`].
    /// Every datagram that this process took from a socket is handled here, all others
    /// there. After an error everything goes on here.
    pub fn hand_over(&mut self, successor: &UnixStream) -> Result<(), XdpError> {
        let offer = self.ingest.offer(successor)?;
        self.stop_threads();
        let handed_over = self.handle_left().and_then(|()| self.ingest.hand_over(offer));
        if handed_over.is_err() {
            self.restart_dead()?;
        }
        handed_over
    }

    /// Handles what lies beside the sockets, such as what threads that died had taken, on
    /// the CPUs that it belongs to, as ever.
    fn handle_left(&self) -> Result<(), XdpError> {
        let mut handled = true;
        // One may leave something for another.
        while handled {
            handled = false;
            for core in self.ingest.cores() {
                let mut receiver = self.ingest.receiver(*core)?;
                let left = || {
                    pin(&receiver);
                    receiver.handle_left(|datagram| handle(&self.handlers, datagram))
                };
                // A handler that panics has handled its datagram too.
                let count = std::thread::scope(|scope| scope.spawn(left).join());
                handled |= count.ok().is_none_or(|count| count > 0);
            }
        }
        Ok(())
    }

    fn start_thread(&mut self, core: u32) -> Result<(), XdpError> {
        let receiver = self.ingest.receiver(core)?;
        let (handlers, stop) = (self.handlers.clone(), self.stop.clone());
        let thread = Builder::new()
            .name(format!("ingest-{core}"))
            .spawn(move || run(receiver, &handlers, &stop))
            .map_err(|reason| XdpError::Kernel { action: "start a thread".into(), reason })?;
        self.threads.push((core, thread));
        Ok(())
    }

    /// Has every thread finish what it is at. A thread that died has said so already.
    fn stop_threads(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.threads.drain(..).for_each(|(_, thread)| drop(thread.join()));
        self.stop.store(false, Ordering::Release);
    }
}

impl Drop for ThreadPerCoreRuntime {
    fn drop(&mut self) {
        self.stop_threads();
    }
}

/// Binds the calling thread to the receiver's CPU, if it can be had.
fn pin(receiver: &Receiver) {
    if let Err(error) = receiver.pin_thread() {
        tracing::warn!(%error, "the thread runs on any CPU");
    }
}

/// How often a thread sees to it that it is on its CPU: the kernel lets it go when that
/// goes offline.
const PIN_EVERY: Duration = Duration::from_secs(1);

/// What each thread does.
fn run(mut receiver: Receiver, handlers: &[Mutex<Handler>], stop: &AtomicBool) {
    pin(&receiver);
    let mut pinned = Instant::now();
    while !stop.load(Ordering::Acquire) {
        if pinned.elapsed() > PIN_EVERY {
            receiver.pin_thread().ok(); // offline still
            pinned = Instant::now();
        }
        let patience = Duration::from_millis(20);
        let received = receiver.receive(patience, |datagram| handle(handlers, datagram));
        if let Err(error) = received {
            tracing::error!(%error, "receiving");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Calls the handler of a datagram's partition; nobody else does at the same time, as a
/// partition has one owner. One that panicked is called again, with the next datagram.
fn handle(handlers: &[Mutex<Handler>], datagram: Datagram<'_>) {
    let handler = &handlers[datagram.partition as usize];
    handler.lock().unwrap_or_else(PoisonError::into_inner)(datagram);
}
