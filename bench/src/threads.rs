//! Threads and the scheduler's own account of them.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// How long a thread, by its id, has been running on a CPU, in nanoseconds.
pub fn run_time(thread: u32) -> Result<u64> {
    let path = format!("/proc/{thread}/schedstat");
    let text = fs::read_to_string(&path).with_context(|| path.clone())?;
    let first = text.split_whitespace().next().and_then(|word| word.parse().ok());
    first.with_context(|| format!("{path}: {text:?}"))
}

/// The ids of the kernel's threads whose names begin like this.
pub fn kernel_threads(prefix: &str) -> Result<Vec<u32>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(id) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
        // A process may have ended meanwhile.
        let name = fs::read_to_string(format!("/proc/{id}/comm")).unwrap_or_default();
        if name.starts_with(prefix) {
            found.push(id);
        }
    }
    Ok(found)
}

/// A thread that works until it is told to stop, or until this is dropped.
pub struct Worker {
    id: u32,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Worker {
    /// Starts one on a CPU. `work` returns soon after the flag that it gets is set.
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

    /// How long it has been running, in nanoseconds.
    pub fn run_time(&self) -> Result<u64> {
        run_time(self.id)
    }

    /// Stops it, and says why if it had failed.
    pub fn finish(mut self) -> Result<()> {
        self.end().context("it runs until now")?
    }

    fn end(&mut self) -> Option<Result<()>> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take()?;
        // Again and again, as it may be on its way into what is to be interrupted.
        while !thread.is_finished() {
            testbed::interrupt(self.id).ok();
            std::thread::sleep(Duration::from_millis(1));
        }
        Some(thread.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a thread panicked"))))
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.end();
    }
}

/// Counts on a CPU whenever nothing else runs there, so what it does not count is what
/// everything else took: interrupts too, which the scheduler charges to whom they
/// interrupt.
pub struct Leftover {
    counted: Arc<AtomicU64>,
    _worker: Worker,
}

impl Leftover {
    /// Starts counting.
    pub fn of(cpu: u32) -> Result<Leftover> {
        let counted = Arc::new(AtomicU64::new(0));
        let counter = counted.clone();
        let worker = Worker::start(cpu, move |stop| {
            testbed::become_idle()?;
            while !stop.load(Ordering::Relaxed) {
                counter.store(counter.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
            }
            Ok(())
        })?;
        Ok(Leftover { counted, _worker: worker })
    }

    /// What is counted in a second, over so long a time.
    pub fn rate(&self, time: Duration) -> f64 {
        let (begin, counted) = (Instant::now(), self.counted.load(Ordering::Relaxed));
        std::thread::sleep(time);
        let counted = self.counted.load(Ordering::Relaxed) - counted;
        counted as f64 / begin.elapsed().as_secs_f64()
    }
}
