//! What it costs to have a datagram handled by the CPU that owns it, and how long it takes.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use hdrhistogram::Histogram;
use laminar_xdp::XdpAttachMode;

use crate::Bench;
use crate::application::{self, Seen};
use crate::contenders::{self, Held};
use crate::figures::Figure;
use crate::generator::{Flow, Generator, Rate};
use crate::receiving::Receiving;
use crate::report::{Part, Row, Table};
use crate::threads::{Leftover, Worker};

/// Valid datagrams a second, where a CPU has work.
const LOADED: u64 = 100_000;
/// And where it has next to none.
const IDLE: u64 = 5_000;
/// They come from so many senders, so that what spreads senders has some.
const SENDERS: u32 = 64;
/// Batches that may wait between two threads.
const HANDED: usize = 1024;
/// The percentiles of the time under way.
const PERCENTILES: [f64; 3] = [50.0, 99.0, 99.9];

/// A way to the owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// laminar-xdp in native mode.
    Xdp,
    /// The kernel's receive packet steering, told to use the owner's CPU.
    Rps,
    /// A socket for each CPU in a group among which the kernel spreads senders: whoever
    /// owns the datagram.
    Reuseport,
    /// One socket, read where packets arrive; each batch is handed to the owner's thread.
    HandOver,
}

const WAYS: [Way; 4] = [Way::Xdp, Way::Rps, Way::Reuseport, Way::HandOver];

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Way::Xdp => "laminar-xdp, native",
            Way::Rps => "RPS",
            Way::Reuseport => "reuseport, not steered",
            Way::HandOver => "hand-over between threads",
        })
    }
}

/// The receiving side with a way in place.
struct Steered {
    receiving: Receiving,
    /// Threads of the application where packets arrive, and on the owner's CPU.
    here: Vec<Worker<()>>,
    there: Vec<Worker<()>>,
    /// What either saw.
    seen_here: Arc<Seen>,
    seen_there: Arc<Seen>,
    held: Held,
}

/// What one round found of a way.
#[derive(Default)]
struct Found {
    receiving: Vec<f64>,
    owner: Vec<f64>,
    reached: Vec<f64>,
    idle: [Vec<f64>; 3],
    loaded: [Vec<f64>; 3],
}

/// Measures each way, in turn.
pub fn measure(bench: &Bench) -> Result<Part> {
    let mut part = Part::new("steering", "A datagram's way to the CPU that owns it");
    let (rounds, window) = bench.choose((1, 100), (5, 800));
    let window = Duration::from_millis(window);
    let mut found: [Found; 4] = Default::default();
    for round in 1..=rounds {
        for (way, found) in WAYS.iter().zip(&mut found) {
            bench.progress(format_args!("steering: round {round} of {rounds}, {way}"));
            cost(bench, *way, window, found).with_context(|| way.to_string())?;
            for (rate, latencies) in [(IDLE, &mut found.idle), (LOADED, &mut found.loaded)] {
                let latency = latency(bench, *way, rate, window)
                    .with_context(|| format!("{way}, {rate} a second"))?;
                for (percentile, rounds) in PERCENTILES.iter().zip(latencies) {
                    rounds.push(latency.value_at_percentile(*percentile) as f64 / 1000.0);
                }
            }
        }
    }
    let table = |title: String, columns: Vec<String>, of: fn(&Found) -> [&Vec<f64>; 3]| Table {
        title,
        columns,
        rows: WAYS
            .iter()
            .zip(&found)
            .map(|(way, found)| Row {
                name: way.to_string(),
                figures: of(found).map(|rounds| Some(Figure::of(rounds))).to_vec(),
            })
            .collect(),
        ratios_to: Some(Way::Xdp.to_string()),
    };
    let costs = ["ns on the receiving CPU", "ns on the owner's CPU", "% that reach the owner"];
    let percentiles = || PERCENTILES.map(|percentile| format!("p{percentile}")).to_vec();
    part.tables = vec![
        table(
            format!("{LOADED} datagrams a second: CPU time for each that is read"),
            costs.map(String::from).to_vec(),
            |found| [&found.receiving, &found.owner, &found.reached],
        ),
        table(format!("from sending to reading, µs, at {IDLE} a second"), percentiles(), |found| {
            found.idle.each_ref()
        }),
        table(
            format!("from sending to reading, µs, at {LOADED} a second"),
            percentiles(),
            |found| found.loaded.each_ref(),
        ),
    ];
    // The tail of a shared machine is its own.
    part.tables[1].ratios_to = None;
    part.tables[2].ratios_to = None;
    Ok(part)
}

impl Steered {
    /// Puts a way in place: `bench.cpus.0` receives, `bench.cpus.1` owns everything.
    fn new(bench: &Bench, way: Way) -> Result<Steered> {
        let (here, there) = bench.cpus;
        let receiving = Receiving::new(bench, here)?;
        let (seen_here, seen_there) = (Seen::nothing()?, Seen::nothing()?);
        let mut steered = Steered {
            receiving,
            here: Vec::new(),
            there: Vec::new(),
            seen_here,
            seen_there,
            held: Held::Elsewhere,
        };
        let socket = steered.receiving.socket()?;
        match way {
            Way::Xdp => {
                let mode = XdpAttachMode::Native;
                steered.held = contenders::load(&steered.receiving, mode, &[there])?;
                steered.there.push(application::start(socket, &steered.seen_there, there)?);
            }
            Way::Rps => {
                steered.receiving.steer_packets(there)?;
                steered.there.push(application::start(socket, &steered.seen_there, there)?);
            }
            Way::Reuseport => {
                let second = steered.receiving.socket()?;
                steered.here.push(application::start(socket, &steered.seen_here, here)?);
                steered.there.push(application::start(second, &steered.seen_there, there)?);
            }
            Way::HandOver => {
                let (give, take) = sync_channel::<(Vec<u8>, Vec<usize>)>(HANDED);
                steered.here.push(Worker::start(here, move |stop| {
                    application::read(&socket, stop, |datagrams| {
                        let (mut bytes, mut ends) = (Vec::new(), Vec::new());
                        for datagram in datagrams {
                            bytes.extend_from_slice(datagram);
                            ends.push(bytes.len());
                        }
                        // Whoever takes them is told to stop first.
                        give.send((bytes, ends)).ok();
                    })
                })?);
                let seen = steered.seen_there.clone();
                steered.there.push(Worker::start(there, move |stop| {
                    while !stop.load(Ordering::Relaxed) {
                        match take.recv_timeout(Duration::from_millis(50)) {
                            Ok((bytes, ends)) => {
                                let begins = [0].into_iter().chain(ends.iter().copied());
                                let parts = begins.zip(&ends);
                                seen.judge(parts.map(|(begin, end)| &bytes[begin..*end]));
                            }
                            Err(RecvTimeoutError::Timeout) => {}
                            Err(RecvTimeoutError::Disconnected) => break,
                        }
                    }
                    Ok(())
                })?);
            }
        }
        Ok(steered)
    }

    /// How long the receiving CPU's threads have been running, in nanoseconds.
    fn run_time(&self) -> Result<u64> {
        self.here.iter().try_fold(self.receiving.run_time()?, |sum, one| Ok(sum + one.run_time()?))
    }

    /// How many datagrams were read where they arrived, and by the owner.
    fn read(&self) -> (u64, u64) {
        let valid = |seen: &Seen| seen.valid.load(Ordering::Relaxed);
        (valid(&self.seen_here), valid(&self.seen_there))
    }

    fn finish(self) -> Result<()> {
        self.there.into_iter().chain(self.here).try_for_each(Worker::finish)?;
        drop(self.held);
        Ok(())
    }
}

fn flow(rate: u64) -> Flow {
    // Fewer go out together where few are due.
    let batch = if rate == IDLE { 8 } else { 64 };
    Flow { valid: Rate::PerSecond(rate), sources: SENDERS, batch, ..Flow::NONE }
}

/// Of the receiving CPU by the scheduler's account; of the owner's by what is left of it,
/// before, meanwhile and after, as interrupts do work there that the scheduler charges to
/// others.
fn cost(bench: &Bench, way: Way, window: Duration, found: &mut Found) -> Result<()> {
    let (here, there) = bench.cpus;
    let steered = Steered::new(bench, way)?;
    let leftover = Leftover::of(there)?;
    sleep(window / 8);
    let before = leftover.rate(window / 4);
    let generator = Generator::start(bench, &steered.receiving.wire, flow(LOADED), here)?;
    sleep(window / 4);
    let (time, read) = (steered.run_time()?, steered.read());
    let meanwhile = leftover.rate(window);
    let (time, after) = (steered.run_time()? - time, steered.read());
    generator.finish()?;
    sleep(window / 8);
    let idle = (before + leftover.rate(window / 4)) / 2.0;

    let (read_here, read_there) = (after.0 - read.0, after.1 - read.1);
    let all = (read_here + read_there) as f64;
    ensure!(all > 0.0, "nothing was read");
    found.receiving.push(time as f64 / all);
    // The window is a little longer than what it is divided by: the same for all.
    let busy = (1.0 - meanwhile / idle).max(0.0) * window.as_nanos() as f64;
    found.owner.push(busy / all);
    found.reached.push(100.0 * read_there as f64 / all);
    drop(leftover);
    steered.finish()
}

/// How long datagrams are under way, without anything beside them on either CPU.
fn latency(bench: &Bench, way: Way, rate: u64, window: Duration) -> Result<Histogram<u64>> {
    let steered = Steered::new(bench, way)?;
    let generator = Generator::start(bench, &steered.receiving.wire, flow(rate), bench.cpus.0)?;
    sleep(window / 4);
    steered.seen_here.take_latency();
    steered.seen_there.take_latency();
    sleep(window);
    let mut latency = steered.seen_there.take_latency();
    latency.add(steered.seen_here.take_latency())?;
    generator.finish()?;
    steered.finish()?;
    ensure!(!latency.is_empty(), "nothing was read");
    Ok(latency)
}
