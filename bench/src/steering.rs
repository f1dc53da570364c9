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
/// Where it has much.
const BUSY: u64 = 300_000;
/// And where it has next to none.
const IDLE: u64 = 5_000;
/// They come from so many senders, so that what spreads senders has some.
const SENDERS: u32 = 64;
/// And go to so many partitions, all of which the second CPU owns.
const PARTITIONS: u32 = 64;
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
    /// A socket for each CPU in a group, and classic BPF that chooses the owner's by the
    /// partition.
    Group,
    /// The same, but the kernel spreads senders: whoever owns the datagram.
    Reuseport,
    /// One socket, read where packets arrive; each batch is handed to the owner's thread.
    HandOver,
}

const WAYS: [Way; 5] = [Way::Xdp, Way::Rps, Way::Group, Way::Reuseport, Way::HandOver];

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Way::Xdp => "laminar-xdp, native",
            Way::Rps => "RPS",
            Way::Group => "reuseport, by partition",
            Way::Reuseport => "reuseport, by sender",
            Way::HandOver => "hand-over between threads",
        })
    }
}

/// The receiving side with a way in place.
struct Steered {
    receiving: Receiving,
    /// Threads of the application where packets arrive, and on the owner's CPU.
    here: Vec<Worker>,
    there: Vec<Worker>,
    /// What either saw.
    seen_here: Arc<Seen>,
    seen_there: Arc<Seen>,
    held: Held,
}

/// What was found of a way.
struct Found {
    loaded_cost: Cost,
    busy_cost: Cost,
    idle: Latency,
    loaded: Latency,
}

/// What rounds at a rate found: nanoseconds of either CPU for each datagram that was read,
/// the share of those sent that the owner read, and how many were read in a second.
#[derive(Default)]
struct Cost {
    receiving: Vec<f64>,
    owner: Vec<f64>,
    reached: Vec<f64>,
    read: Vec<f64>,
}

/// Percentiles of each round, in microseconds, and everything that they come from.
struct Latency {
    rounds: [Vec<f64>; PERCENTILES.len()],
    all: Histogram<u64>,
}

impl Latency {
    fn new() -> Result<Latency> {
        Ok(Latency { rounds: Default::default(), all: Seen::nothing()?.take_latency() })
    }

    fn add(&mut self, round: Histogram<u64>) -> Result<()> {
        for (percentile, rounds) in PERCENTILES.iter().zip(&mut self.rounds) {
            rounds.push(microseconds(&round, *percentile));
        }
        Ok(self.all.add(round)?)
    }

    /// Percentiles of all rounds together, beside the lowest and the highest of a round.
    fn figures(&self) -> Vec<Option<Figure>> {
        let all = PERCENTILES.iter().zip(&self.rounds);
        let figure = |(percentile, rounds): (&f64, &Vec<f64>)| Figure {
            median: microseconds(&self.all, *percentile),
            ..Figure::of(rounds)
        };
        all.map(|each| Some(figure(each))).collect()
    }
}

fn microseconds(latency: &Histogram<u64>, percentile: f64) -> f64 {
    latency.value_at_percentile(percentile) as f64 / 1000.0
}

/// Measures each way, in turn.
pub fn measure(bench: &Bench) -> Result<Part> {
    let mut part = Part::new("steering", "A datagram's way to the CPU that owns it");
    let (rounds, window) = bench.choose((1, 200), (9, 500));
    let window = bench.window(window);
    let mut found = Vec::new();
    for _ in WAYS {
        let (idle, loaded) = (Latency::new()?, Latency::new()?);
        let [loaded_cost, busy_cost] = Default::default();
        found.push(Found { loaded_cost, busy_cost, idle, loaded });
    }
    for round in 1..=rounds {
        for i in bench.turns(round, WAYS.len()) {
            let (way, found) = (WAYS[i], &mut found[i]);
            bench.progress(format_args!("steering: round {round} of {rounds}, {way}"));
            let rates = [LOADED, BUSY];
            for (rate, costs) in
                rates.into_iter().zip([&mut found.loaded_cost, &mut found.busy_cost])
            {
                cost(bench, way, rate, window, costs)
                    .with_context(|| format!("{way}, {rate} a second"))?;
            }
            for (rate, latencies) in [(IDLE, &mut found.idle), (LOADED, &mut found.loaded)] {
                let latency = latency(bench, way, rate, window)
                    .with_context(|| format!("{way}, {rate} a second"))?;
                latencies.add(latency)?;
            }
        }
    }
    let rows = |of: &dyn Fn(&Found) -> Vec<Option<Figure>>| {
        let rows = WAYS.iter().zip(&found);
        rows.map(|(way, found)| Row { name: way.to_string(), figures: of(found) }).collect()
    };
    let latencies = |rate, of: &dyn Fn(&Found) -> Vec<Option<Figure>>| Table {
        title: format!("from sending to reading, µs, at {rate} a second"),
        columns: PERCENTILES.map(|percentile| format!("p{percentile}")).to_vec(),
        rows: rows(of),
        // The tail of a shared machine is its own.
        ratios_to: None,
    };
    let mut costs = |rate: u64, of: fn(&Found) -> &Cost| {
        let figures =
            |rounds: [&Vec<f64>; 2]| rounds.map(|rounds| Some(Figure::of(rounds))).to_vec();
        part.tables.push(Table {
            title: format!("{rate} datagrams a second: CPU time for each that is read, ns"),
            columns: ["on the receiving CPU", "on the owner's CPU"].map(String::from).to_vec(),
            rows: rows(&|found| figures([&of(found).receiving, &of(found).owner])),
            ratios_to: Some(Way::Xdp.to_string()),
        });
        part.tables.push(Table {
            title: format!("{rate} datagrams a second: what arrives"),
            columns: ["% of them that the owner reads", "read in a second"]
                .map(String::from)
                .to_vec(),
            rows: rows(&|found| figures([&of(found).reached, &of(found).read])),
            ratios_to: None,
        });
    };
    costs(LOADED, |found| &found.loaded_cost);
    costs(BUSY, |found| &found.busy_cost);
    part.tables.extend([
        latencies(IDLE, &|found| found.idle.figures()),
        latencies(LOADED, &|found| found.loaded.figures()),
    ]);
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
            Way::Group | Way::Reuseport => {
                let second = steered.receiving.socket()?;
                if way == Way::Group {
                    testbed::select_in_group(&socket, &BY_PARTITION)?;
                }
                steered.here.push(application::start(socket, &steered.seen_here, here)?);
                steered.there.push(application::start(second, &steered.seen_there, there)?);
            }
            Way::HandOver => {
                let (give, take) = sync_channel::<(Vec<u8>, Vec<usize>)>(HANDED);
                steered.here.push(Worker::start(here, move |stop| {
                    application::read(&socket, stop, |datagrams| {
                        let mut bytes = Vec::with_capacity(application::BATCH * 128);
                        let mut ends = Vec::with_capacity(application::BATCH);
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
        steered.receiving.settle()?;
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
    let valid = Rate::PerSecond(rate);
    Flow { valid, partitions: PARTITIONS, sources: SENDERS, batch, ..Flow::NONE }
}

/// Classic BPF: `partition_key % PARTITIONS`, and then the second socket of the group, as the
/// second CPU owns all partitions.
const BY_PARTITION: [(u16, u32); 5] = {
    const LOAD_WORD: u16 = 0x20;
    const MODULO: u16 = 0x94;
    const AND: u16 = 0x54;
    const ADD: u16 = 0x04;
    const RETURN_IT: u16 = 0x16;
    [(LOAD_WORD, 4), (MODULO, PARTITIONS), (AND, 0), (ADD, 1), (RETURN_IT, 0)]
};

/// Of the receiving CPU by the scheduler's account; of the owner's by what is left of it,
/// before, meanwhile and after, as interrupts do work there that the scheduler charges to
/// others. Before and after the generator runs too, and sends nothing: what it takes from
/// its neighbour, if the two CPUs share a core, is not what datagrams cost.
fn cost(bench: &Bench, way: Way, rate: u64, window: Duration, found: &mut Cost) -> Result<()> {
    let (here, there) = bench.cpus;
    let steered = Steered::new(bench, way)?;
    let leftover = Leftover::of(there)?;
    let start = |flow| Generator::start(bench, &steered.receiving.wire, flow, here);
    let idle = || -> Result<f64> {
        let nothing = start(Flow::NONE)?;
        sleep(window / 8);
        let rate = leftover.rate(window / 4);
        nothing.finish()?;
        Ok(rate)
    };
    let before = idle()?;
    let generator = start(flow(rate))?;
    sleep(window / 4);
    let sample =
        || Ok::<_, anyhow::Error>((steered.run_time()?, steered.read(), generator.sent()?.1));
    let first = sample()?;
    let meanwhile = leftover.rate(window);
    let last = sample()?;
    generator.finish()?;
    let idle = (before + idle()?) / 2.0;

    let (read_here, read_there) = (last.1.0 - first.1.0, last.1.1 - first.1.1);
    let (all, sent) = ((read_here + read_there) as f64, (last.2 - first.2) as f64);
    ensure!(all > 0.0, "nothing was read of {sent} that were sent");
    found.receiving.push((last.0 - first.0) as f64 / all);
    // The window is a little longer than what it is divided by: the same for all.
    let busy = (1.0 - meanwhile / idle).max(0.0) * window.as_nanos() as f64;
    found.owner.push(busy / all);
    found.reached.push((100.0 * read_there as f64 / sent).min(100.0));
    found.read.push(all / window.as_secs_f64());
    drop(leftover);
    steered.finish()
}

/// How long datagrams are under way, without anything beside them on either CPU.
fn latency(bench: &Bench, way: Way, rate: u64, window: Duration) -> Result<Histogram<u64>> {
    let steered = Steered::new(bench, way)?;
    let flow = flow(rate);
    let generator = Generator::start(bench, &steered.receiving.wire, flow, bench.cpus.0)?;
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
