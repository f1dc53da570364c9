//! A thread-per-core runtime on top of `laminar_xdp::Ingest`. Each CPU has a thread that is
//! bound to it and reads one socket. Each partition has a handler, which only the thread of
//! the owning CPU calls. Copy this file into your program: the kernel tests and the example
//! `laminardb-ingest` use it too.

use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use laminar_xdp::{Datagram, Ingest, IngestConfig, IngestStats, Receiver, XdpConfig, XdpError};

/// Handles the datagrams of one partition in their order. When the partition moves to another
/// CPU, the thread of that CPU calls the handler.
pub type Handler = Box<dyn FnMut(Datagram<'_>) + Send>;

/// The running threads. Dropping it stops them and closes the port.
pub struct ThreadPerCoreRuntime {
    ingest: Ingest,
    handlers: Arc<Vec<Mutex<Handler>>>,
    stop: Arc<AtomicBool>,
    threads: Vec<(u32, JoinHandle<()>)>,
}

impl ThreadPerCoreRuntime {
    /// Opens the sockets, attaches XDP if it can, and starts a thread on each CPU. `handler`
    /// makes the handler of each partition.
    pub fn with_xdp(
        config: &IngestConfig,
        xdp_config: &XdpConfig,
        handler: impl FnMut(u32) -> Handler,
    ) -> Result<ThreadPerCoreRuntime, XdpError> {
        Self::start(Ingest::open(config, xdp_config)?, handler)
    }

    /// Takes over sockets and program from a running process, and starts the threads. The
    /// running process calls [`ThreadPerCoreRuntime::hand_over`] with the other end of the
    /// stream.
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

    /// The counters of XDP and of the sockets.
    pub fn xdp_stats(&self) -> Result<IngestStats, XdpError> {
        self.ingest.stats()
    }

    /// The ingest, to ask for its mode, owners and selection.
    pub fn ingest(&self) -> &Ingest {
        &self.ingest
    }

    /// Moves a partition and its handler to another CPU while datagrams arrive.
    pub fn move_partition(&self, partition: u32, cpu: u32) -> Result<(), XdpError> {
        self.ingest.move_partition(partition, cpu)
    }

    /// The CPUs whose threads have died. Until [`ThreadPerCoreRuntime::restart_dead`], the
    /// datagrams of their partitions wait in the sockets, as many as a receive buffer holds.
    pub fn dead_cpus(&self) -> Vec<u32> {
        let lives = |cpu: &u32| {
            self.threads.iter().any(|(other, thread)| other == cpu && !thread.is_finished())
        };
        self.ingest.cores().iter().copied().filter(|cpu| !lives(cpu)).collect()
    }

    /// Starts a thread for each CPU that has none. It continues with the datagram behind the
    /// one at which the thread before it died.
    pub fn restart_dead(&mut self) -> Result<(), XdpError> {
        self.threads.retain(|(_, thread)| !thread.is_finished());
        let started = self.dead_cpus().into_iter().map(|cpu| self.start_thread(cpu));
        // Starts the other threads even if one cannot be started.
        started.collect::<Vec<_>>().into_iter().collect()
    }

    /// Hands over to another process, which calls [`ThreadPerCoreRuntime::take_over`]. This
    /// process handles every datagram that it took from a socket, the other process all
    /// others. After an error this process goes on.
    pub fn hand_over(&mut self, successor: &UnixStream) -> Result<(), XdpError> {
        let offer = self.ingest.offer(successor)?;
        self.stop_threads();
        let handed_over = self.drain().and_then(|()| self.ingest.hand_over(offer));
        if handed_over.is_err() {
            self.restart_dead()?;
        }
        handed_over
    }

    /// Handles what was taken from the sockets and is not handled yet, for example by a thread
    /// that died. Each datagram is handled on the CPU of its owner.
    fn drain(&self) -> Result<(), XdpError> {
        let mut handled = true;
        // A receiver may leave datagrams for another one, so this ends with a round in which
        // none handles any.
        while handled {
            handled = false;
            for cpu in self.ingest.cores() {
                let mut receiver = self.ingest.receiver(*cpu)?;
                let drain = || {
                    pin(&receiver);
                    receiver.handle_left(|datagram| handle(&self.handlers, datagram))
                };
                // A handler that panics counts as one that handled its datagram.
                let count = std::thread::scope(|scope| scope.spawn(drain).join());
                handled |= count.ok().is_none_or(|count| count > 0);
            }
        }
        Ok(())
    }

    fn start_thread(&mut self, cpu: u32) -> Result<(), XdpError> {
        let receiver = self.ingest.receiver(cpu)?;
        let (handlers, stop) = (self.handlers.clone(), self.stop.clone());
        let thread = Builder::new()
            .name(format!("ingest-{cpu}"))
            .spawn(move || run(receiver, &handlers, &stop))
            .map_err(|reason| XdpError::Kernel { action: "start a thread".into(), reason })?;
        self.threads.push((cpu, thread));
        Ok(())
    }

    /// Stops the threads after the datagrams that they are handling. The panic of a dead thread
    /// was printed when it died.
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

/// Binds the calling thread to the receiver's CPU. If that fails, for example because the CPU
/// is offline, the thread runs on any CPU.
fn pin(receiver: &Receiver) {
    if let Err(error) = receiver.pin_thread() {
        tracing::warn!(%error, "the thread is not bound to its CPU");
    }
}

/// How often a thread binds itself to its CPU again. The kernel unbinds it when the CPU goes
/// offline.
const PIN_EVERY: Duration = Duration::from_secs(1);

/// The body of each thread.
fn run(mut receiver: Receiver, handlers: &[Mutex<Handler>], stop: &AtomicBool) {
    pin(&receiver);
    let mut pinned = Instant::now();
    while !stop.load(Ordering::Acquire) {
        if pinned.elapsed() > PIN_EVERY {
            // Fails while the CPU is offline.
            receiver.pin_thread().ok();
            pinned = Instant::now();
        }
        let timeout = Duration::from_millis(20);
        let received = receiver.receive(timeout, |datagram| handle(handlers, datagram));
        if let Err(error) = received {
            tracing::error!(%error, "cannot receive");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Calls the handler of a datagram's partition. The lock is never contended, because each
/// partition has one owner. A handler that panicked is called again with the next datagram.
fn handle(handlers: &[Mutex<Handler>], datagram: Datagram<'_>) {
    let handler = &handlers[datagram.partition as usize];
    handler.lock().unwrap_or_else(PoisonError::into_inner)(datagram);
}
