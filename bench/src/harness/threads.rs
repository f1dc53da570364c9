//! Threads and the CPU time that they use.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};

use crate::session::Session;

/// Returns the CPU time of a thread in nanoseconds, as the scheduler accounts it.
pub fn run_time(thread: u32) -> Result<u64> {
    let path = format!("/proc/{thread}/schedstat");
    let text = fs::read_to_string(&path).with_context(|| path.clone())?;
    let first = text.split_whitespace().next().and_then(|word| word.parse().ok());
    first.with_context(|| format!("{path}: {text:?}"))
}

/// Returns the ids of the kernel threads whose names begin with `prefix`.
pub fn kernel_threads(prefix: &str) -> Result<Vec<u32>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(id) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
        // The thread may have ended since `/proc` was listed.
        let name = fs::read_to_string(format!("/proc/{id}/comm")).unwrap_or_default();
        if name.starts_with(prefix) {
            found.push(id);
        }
    }
    Ok(found)
}

/// A thread that is bound to a CPU. Dropping the worker stops the thread.
pub struct Worker {
    id: u32,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Worker {
    /// Starts a thread that runs `work` on `cpu`. `work` must return soon after its flag is set.
    /// Once the flag is set, signals interrupt the system calls of `work`.
    pub fn start(
        cpu: u32,
        work: impl FnOnce(&AtomicBool) -> Result<()> + Send + 'static,
    ) -> Result<Worker> {
        let stop = Arc::new(AtomicBool::new(false));
        let flag = stop.clone();
        let (send, ready) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            send.send(testbed::pin_thread(0, cpu).map(|()| testbed::thread_id())).ok();
            work(&flag)
        });
        let id = ready.recv()??;
        Ok(Worker { id, stop, thread: Some(thread) })
    }

    /// The run time of the thread in nanoseconds.
    pub fn run_time(&self) -> Result<u64> {
        run_time(self.id)
    }

    /// Stops the thread. Returns the error of `work` if it failed.
    pub fn finish(mut self) -> Result<()> {
        self.end().context("the thread was already stopped")?
    }

    fn end(&mut self) -> Option<Result<()>> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take()?;
        // Repeat the signal until the thread ends: a signal that arrives just before the thread
        // enters a system call does not interrupt that call.
        while !thread.is_finished() {
            testbed::interrupt(self.id).ok();
            std::thread::sleep(Duration::from_millis(1));
        }
        Some(thread.join().unwrap_or_else(|_| Err(anyhow!("a thread panicked"))))
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.end();
    }
}

/// Measures how much of a CPU's time is unused. A thread of the idle scheduling class increments a
/// counter as fast as it can. Other threads and interrupts on the CPU slow the counter down. The
/// counter therefore shows the cost of interrupts. The run times of threads do not show this cost:
/// the scheduler adds an interrupt's time to the interrupted thread.
///
/// In a quick run, the counting thread has the ordinary scheduling class
/// ([`Session::uses_idle_class`]). The counts of a quick run only show that the counter works.
pub struct IdleCounter {
    count: Arc<AtomicU64>,
    _worker: Worker,
}

impl IdleCounter {
    /// Starts counting on a CPU.
    pub fn start(session: &Session, cpu: u32) -> Result<IdleCounter> {
        let count = Arc::new(AtomicU64::new(0));
        let counter = count.clone();
        let idle = session.uses_idle_class();
        let worker = Worker::start(cpu, move |stop| {
            if idle {
                testbed::become_idle()?;
            }
            while !stop.load(Ordering::Relaxed) {
                counter.store(counter.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
            }
            Ok(())
        })?;
        Ok(IdleCounter { count, _worker: worker })
    }

    /// Waits for `time` and returns the number of increments per second during this time.
    pub fn rate(&self, time: Duration) -> f64 {
        let (begin, before) = (Instant::now(), self.count.load(Ordering::Relaxed));
        std::thread::sleep(time);
        let counted = self.count.load(Ordering::Relaxed) - before;
        counted as f64 / begin.elapsed().as_secs_f64()
    }
}
