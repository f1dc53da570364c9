//! The application under test: it reads a socket and validates each datagram.

use std::io::ErrorKind;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use hdrhistogram::Histogram;
use laminar_xdp::LaminarHeader;
use socket2::Socket;
use testbed::Batch;

use crate::harness::threads::Worker;

/// The maximum number of datagrams that the application receives with one system call.
pub const BATCH: usize = 64;

/// The upper end of the latency histogram, in nanoseconds. The histogram counts a higher latency as
/// this latency.
const MAX_LATENCY: u64 = 10_000_000_000;

/// What an application received.
#[derive(Debug)]
pub struct Received {
    /// The number of all datagrams.
    pub datagrams: AtomicU64,
    /// The number of valid datagrams.
    pub valid: AtomicU64,
    latency: Mutex<Histogram<u64>>,
}

impl Received {
    /// Creates counters that start at 0.
    pub fn new() -> Result<Arc<Received>> {
        Ok(Arc::new(Received {
            datagrams: AtomicU64::new(0),
            valid: AtomicU64::new(0),
            latency: Mutex::new(Histogram::new_with_bounds(1, MAX_LATENCY, 3)?),
        }))
    }

    /// Validates and counts datagrams, and records the latency of the valid ones.
    pub fn add<'a>(&self, datagrams: impl Iterator<Item = &'a [u8]>) {
        let now = testbed::monotonic_nanoseconds();
        let (mut all, mut valid) = (0, 0);
        let mut latency = self.latency.lock().unwrap_or_else(PoisonError::into_inner);
        for datagram in datagrams {
            all += 1;
            let Some(sent) = time_stamp(datagram) else { continue };
            valid += 1;
            latency.saturating_record(now.saturating_sub(sent));
        }
        self.datagrams.fetch_add(all, Ordering::Relaxed);
        self.valid.fetch_add(valid, Ordering::Relaxed);
    }

    /// Returns the latencies, in nanoseconds, of the valid datagrams since the previous call.
    pub fn take_latency(&self) -> Histogram<u64> {
        let mut latency = self.latency.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = latency.clone();
        latency.reset();
        taken
    }
}

/// Returns the time at which a datagram was sent, or `None` if the datagram is not valid.
fn time_stamp(datagram: &[u8]) -> Option<u64> {
    let header = LaminarHeader::from_bytes(datagram)?;
    let payload = datagram.get(LaminarHeader::SIZE..)?;
    if !header.validate() || header.payload_len as usize != payload.len() {
        return None;
    }
    Some(u64::from_ne_bytes(payload.get(..8)?.try_into().ok()?))
}

/// Reads a socket until `stop` is set. Each system call receives a batch of up to [`BATCH`]
/// datagrams, and each batch is passed to `work` in one call.
pub fn read(
    socket: &impl AsRawFd,
    stop: &AtomicBool,
    mut work: impl FnMut(&mut dyn Iterator<Item = &[u8]>),
) -> Result<()> {
    let mut batch = Batch::new(BATCH);
    while !stop.load(Ordering::Relaxed) {
        match batch.receive(socket) {
            Ok(mut datagrams) => work(&mut datagrams),
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Starts an application that consists of one thread. The thread is bound to `cpu`.
pub fn start(socket: Socket, received: &Arc<Received>, cpu: u32) -> Result<Worker> {
    let received = received.clone();
    Worker::start(cpu, move |stop| read(&socket, stop, |datagrams| received.add(datagrams)))
}
