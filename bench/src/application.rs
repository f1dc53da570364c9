//! The application: reads its socket and judges each datagram itself.

use std::io::ErrorKind;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use hdrhistogram::Histogram;
use laminar_xdp::LaminarHeader;
use socket2::Socket;
use testbed::Batch;

use crate::threads::Worker;

/// How many datagrams it takes with one call.
pub const BATCH: usize = 64;

/// The longest time that is told apart from longer ones, in nanoseconds.
const LONGEST: u64 = 10_000_000_000;

/// What an application saw.
#[derive(Debug)]
pub struct Seen {
    /// Datagrams that it had to judge.
    pub judged: AtomicU64,
    /// Those that were valid.
    pub valid: AtomicU64,
    latency: Mutex<Histogram<u64>>,
}

impl Seen {
    /// Nothing yet.
    pub fn nothing() -> Result<Arc<Seen>> {
        Ok(Arc::new(Seen {
            judged: AtomicU64::new(0),
            valid: AtomicU64::new(0),
            latency: Mutex::new(Histogram::new_with_bounds(1, LONGEST, 3)?),
        }))
    }

    /// Judges what came with one call.
    pub fn judge<'a>(&self, datagrams: impl Iterator<Item = &'a [u8]>) {
        let now = testbed::monotonic_nanoseconds();
        let (mut judged, mut valid) = (0, 0);
        let mut latency = self.latency.lock().unwrap_or_else(PoisonError::into_inner);
        for datagram in datagrams {
            judged += 1;
            let Some(sent) = sent(datagram) else { continue };
            valid += 1;
            latency.saturating_record(now.saturating_sub(sent));
        }
        self.judged.fetch_add(judged, Ordering::Relaxed);
        self.valid.fetch_add(valid, Ordering::Relaxed);
    }

    /// How long datagrams were under way, in nanoseconds, since this was asked last.
    pub fn take_latency(&self) -> Histogram<u64> {
        let mut latency = self.latency.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = latency.clone();
        latency.reset();
        taken
    }
}

/// When a datagram was sent, if it is a valid one.
fn sent(datagram: &[u8]) -> Option<u64> {
    let header = LaminarHeader::from_bytes(datagram)?;
    let payload = datagram.get(LaminarHeader::SIZE..)?;
    if !header.validate() || header.payload_len as usize != payload.len() {
        return None;
    }
    Some(u64::from_ne_bytes(payload.get(..8)?.try_into().ok()?))
}

/// Calls `work` with what each call takes from a socket, until told to stop.
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

/// An application with one thread, on a CPU.
pub fn start(socket: Socket, seen: &Arc<Seen>, cpu: u32) -> Result<Worker> {
    let seen = seen.clone();
    Worker::start(cpu, move |stop| read(&socket, stop, |datagrams| seen.judge(datagrams)))
}
