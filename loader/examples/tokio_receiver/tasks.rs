//! Tokio on top of `laminar_xdp::Ingest`. A thread is bound to each CPU. The thread runs a
//! current-thread runtime, and a task in that runtime runs the CPU's receiver. Copy this file as a
//! start. The tests also use it.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use laminar_xdp::{Datagram, Ingest, Receiver, XdpError};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::task::AbortHandle;

/// The threads of all CPUs. Dropping this value stops the threads and drops their receivers.
/// Datagrams then wait in the sockets until the receivers are taken again.
#[must_use = "dropping the tasks stops them"]
pub struct ReceiverTasks(Vec<ReceiverTask>);

struct ReceiverTask {
    abort: AbortHandle,
    /// `None` after the thread has been joined.
    thread: Option<JoinHandle<Result<(), XdpError>>>,
}

impl ReceiverTasks {
    /// Starts a thread with a runtime for each CPU of `ingest`. `handle` is called for each
    /// datagram, on the CPU that owns the datagram's partition. The call is inside the runtime,
    /// so `handle` can spawn tasks. `handle` must not block, because everything else in that
    /// runtime waits for it.
    pub fn start(
        ingest: &Ingest,
        handle: impl Fn(Datagram<'_>) + Clone + Send + 'static,
    ) -> Result<ReceiverTasks, XdpError> {
        let start = |cpu: &u32| ReceiverTask::start(ingest.receiver(*cpu)?, handle.clone());
        Ok(ReceiverTasks(ingest.cpus().iter().map(start).collect::<Result<_, _>>()?))
    }

    /// Whether a task has ended with an error or a panic.
    pub fn has_failed(&self) -> bool {
        self.0.iter().any(|task| task.abort.is_finished())
    }

    /// Stops all tasks and returns the first error of a task that failed. Afterwards the
    /// receivers can be taken again for [`Receiver::drain`] and [`Ingest::hand_over`].
    pub fn stop(mut self) -> Result<(), XdpError> {
        let stopped: Vec<_> = self.0.iter_mut().map(ReceiverTask::stop).collect();
        stopped.into_iter().collect()
    }
}

impl ReceiverTask {
    fn start(
        receiver: Receiver,
        handle: impl Fn(Datagram<'_>) + Send + 'static,
    ) -> Result<ReceiverTask, XdpError> {
        let name = format!("ingest-{}", receiver.cpu());
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_io().build();
        let runtime = runtime.map_err(|error| failed("start a tokio runtime", error))?;
        // This only queues the task. The task runs on the thread that calls `block_on`.
        let task = runtime.spawn(serve(receiver, handle));
        let abort = task.abort_handle();
        let run = move || match runtime.block_on(task) {
            Ok(result) => result,
            Err(error) if error.is_cancelled() => Ok(()),
            Err(error) => Err(failed("run the handler of a datagram", error.into())),
        };
        let thread = std::thread::Builder::new().name(name).spawn(run);
        let thread = thread.map_err(|error| failed("start a thread", error))?;
        Ok(ReceiverTask { abort, thread: Some(thread) })
    }

    fn stop(&mut self) -> Result<(), XdpError> {
        self.abort.abort();
        let Some(thread) = self.thread.take() else { return Ok(()) };
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

impl Drop for ReceiverTask {
    fn drop(&mut self) {
        self.stop().ok();
    }
}

/// Handles the datagrams of one CPU until receiving fails. The caller may drop this future
/// without losing a datagram, because the future holds no datagram at an await.
async fn serve(receiver: Receiver, handle: impl Fn(Datagram<'_>)) -> Result<(), XdpError> {
    if let Err(error) = receiver.pin_thread() {
        tracing::warn!(error = %error.with_causes(), "cannot bind the thread to its CPU");
    }
    // SAFETY: a receiver keeps the same descriptor, and keeps it open, until the receiver is
    // dropped.
    let receiver = unsafe { AsyncFd::register_with_interest(receiver, Interest::READABLE) };
    let mut receiver = receiver.map_err(|error| failed("watch a receiver", error.into()))?;
    loop {
        let ready = receiver.readable_mut().await;
        let mut ready = ready.map_err(|error| failed("wait for a receiver", error))?;
        let received = ready.get_inner_mut().receive(Duration::ZERO, &handle)?;
        // Tokio waits edge-triggered: the kernel reports only new datagrams. If readiness were
        // cleared too early, the remaining datagrams would wait until another datagram arrives.
        if received.drained {
            ready.clear_ready();
        }
        // Under a flood the receiver is always ready. This await lets other tasks run.
        tokio::task::coop::consume_budget().await;
    }
}

fn failed(action: &str, error: io::Error) -> XdpError {
    XdpError::Kernel { action: action.into(), source: Arc::new(error) }
}
