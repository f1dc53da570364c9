//! The paths on which a datagram can reach the CPU that owns its partition.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::Duration;

use anyhow::Result;
use laminar_xdp::XdpAttachMode;
use socket2::Socket;

use crate::harness::application::{self, Received};
use crate::harness::contenders::{self, Installed};
use crate::harness::rx_interface::RxInterface;
use crate::harness::threads::Worker;
use crate::session::Session;

/// The number of partitions. [`Session::other_cpu`] owns all of them.
pub const PARTITIONS: u32 = 64;

/// The number of batches that may wait in the channel between two threads.
const CHANNEL_BATCHES: usize = 1024;

/// A path to the owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Path {
    /// laminar-xdp in native mode.
    Xdp,
    /// Receive packet steering (RPS) of the kernel, configured to use the owner's CPU.
    Rps,
    /// A reuseport group with one socket for each CPU. Classic BPF selects the owner's socket by
    /// the datagram's partition.
    ReuseportByPartition,
    /// A reuseport group without a program. The kernel selects a socket by the sender's address.
    /// The selected socket may belong to a CPU that does not own the partition.
    ReuseportBySender,
    /// One socket. A thread on the receiving CPU reads the socket and hands each batch to the
    /// owner's thread.
    HandOver,
}

impl Path {
    /// All paths. Ratios are relative to the first path.
    pub const ALL: [Path; 5] =
        [Path::Xdp, Path::Rps, Path::ReuseportByPartition, Path::ReuseportBySender, Path::HandOver];
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Path::Xdp => "laminar-xdp, native",
            Path::Rps => "RPS",
            Path::ReuseportByPartition => "reuseport, by partition",
            Path::ReuseportBySender => "reuseport, by sender",
            Path::HandOver => "hand-over between threads",
        })
    }
}

/// A running path with its application. Packets arrive on [`Session::rx_cpu`], and
/// [`Session::other_cpu`] owns all partitions.
pub struct SteeredApplication {
    /// The receiving interface.
    pub rx: RxInterface,
    /// What the application received on the receiving CPU.
    pub on_rx_cpu: Arc<Received>,
    /// What the application received on the owner's CPU.
    pub on_owner: Arc<Received>,
    rx_threads: Vec<Worker>,
    owner_threads: Vec<Worker>,
    installed: Installed,
}

impl SteeredApplication {
    /// Sets up a path and starts its application.
    pub fn start(session: &Session, path: Path) -> Result<SteeredApplication> {
        let (rx_cpu, owner) = (session.rx_cpu, session.other_cpu);
        let mut app = SteeredApplication {
            rx: RxInterface::new(session, rx_cpu)?,
            on_rx_cpu: Received::new()?,
            on_owner: Received::new()?,
            rx_threads: Vec::new(),
            owner_threads: Vec::new(),
            installed: Installed::WithSocket,
        };
        let socket = app.rx.socket()?;
        match path {
            Path::Xdp => {
                app.installed = contenders::load(&app.rx, XdpAttachMode::Native, &[owner])?;
                app.owner_threads.push(application::start(socket, &app.on_owner, owner)?);
            }
            Path::Rps => {
                app.rx.set_rps(owner)?;
                app.owner_threads.push(application::start(socket, &app.on_owner, owner)?);
            }
            Path::ReuseportByPartition | Path::ReuseportBySender => {
                let second = app.rx.socket()?;
                if path == Path::ReuseportByPartition {
                    testbed::select_in_group(&socket, &BY_PARTITION)?;
                }
                app.rx_threads.push(application::start(socket, &app.on_rx_cpu, rx_cpu)?);
                app.owner_threads.push(application::start(second, &app.on_owner, owner)?);
            }
            Path::HandOver => app.hand_over(socket, rx_cpu, owner)?,
        }
        app.rx.bind_threads()?;
        Ok(app)
    }

    /// Starts a thread that reads the socket and a thread that owns the partitions, with a channel
    /// between them.
    fn hand_over(&mut self, socket: Socket, rx_cpu: u32, owner: u32) -> Result<()> {
        let (sender, receiver) = sync_channel::<(Vec<u8>, Vec<usize>)>(CHANNEL_BATCHES);
        self.rx_threads.push(Worker::start(rx_cpu, move |stop| {
            application::read(&socket, stop, |datagrams| {
                let mut bytes = Vec::with_capacity(application::BATCH * 128);
                let mut ends = Vec::with_capacity(application::BATCH);
                for datagram in datagrams {
                    bytes.extend_from_slice(datagram);
                    ends.push(bytes.len());
                }
                // Ignore the error: sending fails only after the owner's thread has stopped, and
                // `finish` stops that thread first.
                sender.send((bytes, ends)).ok();
            })
        })?);
        let received = self.on_owner.clone();
        self.owner_threads.push(Worker::start(owner, move |stop| {
            while !stop.load(Ordering::Relaxed) {
                match receiver.recv_timeout(Duration::from_millis(50)) {
                    Ok((bytes, ends)) => {
                        let begins = [0].into_iter().chain(ends.iter().copied());
                        let datagrams = begins.zip(&ends);
                        received.add(datagrams.map(|(begin, end)| &bytes[begin..*end]));
                    }
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => break,
                }
            }
            Ok(())
        })?);
        Ok(())
    }

    /// The total run time, in nanoseconds, of two groups of threads: the polling threads, and the
    /// application's threads on the receiving CPU.
    pub fn run_time(&self) -> Result<u64> {
        let mut threads = self.rx_threads.iter();
        threads.try_fold(self.rx.run_time()?, |sum, thread| Ok(sum + thread.run_time()?))
    }

    /// Returns the number of valid datagrams that were read on the receiving CPU, and the number
    /// that were read on the owner's CPU.
    pub fn read(&self) -> (u64, u64) {
        let valid = |received: &Received| received.valid.load(Ordering::Relaxed);
        (valid(&self.on_rx_cpu), valid(&self.on_owner))
    }

    /// Stops the application and removes the path. Returns an error if a thread failed.
    pub fn finish(self) -> Result<()> {
        self.owner_threads.into_iter().chain(self.rx_threads).try_for_each(Worker::finish)?;
        drop(self.installed);
        Ok(())
    }
}

/// A classic BPF program that always selects the second socket of the group, because the second CPU
/// owns all partitions. The program first computes `partition_key % PARTITIONS` and ignores the
/// result, because a real selection would have to compute it.
const BY_PARTITION: [(u16, u32); 5] = {
    const LOAD_WORD: u16 = 0x20;
    const MODULO: u16 = 0x94;
    const AND: u16 = 0x54;
    const ADD: u16 = 0x04;
    const RETURN_ACCUMULATOR: u16 = 0x16;
    [(LOAD_WORD, 4), (MODULO, PARTITIONS), (AND, 0), (ADD, 1), (RETURN_ACCUMULATOR, 0)]
};
