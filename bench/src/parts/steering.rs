//! Measures what it costs to bring a datagram to the CPU that owns it, in CPU time and in latency.

use std::thread::sleep;
use std::time::Duration;

use anyhow::Result;
use hdrhistogram::Histogram;

use crate::harness::application::Received;
use crate::harness::generator::{Flow, Generator, Rate};
use crate::harness::rounds::{NothingMeasured, measure_round, wait_for_first_packet};
use crate::harness::threads::IdleCounter;
use crate::parts::steering_paths::{PARTITIONS, Path, SteeredApplication};
use crate::report::{Figure, Part, Row, Table};
use crate::session::Session;

/// A rate that uses a part of a CPU, in valid datagrams per second.
const MEDIUM_RATE: u64 = 100_000;
/// A rate that uses most of a CPU, in valid datagrams per second.
const HIGH_RATE: u64 = 300_000;
/// A rate that leaves the CPUs almost idle, in valid datagrams per second.
const LOW_RATE: u64 = 5_000;
/// The number of senders. One of the paths distributes datagrams by sender, so one sender would not
/// be enough.
const SENDERS: u32 = 64;
/// The percentiles of the latency that are reported.
const PERCENTILES: [f64; 3] = [50.0, 99.0, 99.9];

/// All results for one path.
struct Results {
    medium_cost: Vec<Cost>,
    high_cost: Vec<Cost>,
    low_latency: Latency,
    medium_latency: Latency,
}

/// The result of one round at one rate.
struct Cost {
    /// The CPU time of the receiving CPU for each datagram that was read, in nanoseconds.
    receiving: f64,
    /// The CPU time of the owner's CPU for each datagram that was read, in nanoseconds.
    owner: f64,
    /// The share of the datagrams that the owner read, in percent.
    read_by_owner: f64,
    /// The number of datagrams read per second.
    read: f64,
}

/// The latencies of all rounds.
struct Latency {
    /// The percentiles of each round in microseconds.
    rounds: [Vec<f64>; PERCENTILES.len()],
    /// The latencies of all rounds in nanoseconds.
    all: Histogram<u64>,
}

impl Latency {
    fn new() -> Result<Latency> {
        Ok(Latency { rounds: Default::default(), all: Received::new()?.take_latency() })
    }

    fn add(&mut self, round: Histogram<u64>) -> Result<()> {
        for (percentile, rounds) in PERCENTILES.iter().zip(&mut self.rounds) {
            rounds.push(microseconds(&round, *percentile));
        }
        Ok(self.all.add(round)?)
    }

    /// Returns each percentile of all rounds taken together, with the spread between the rounds.
    fn figures(&self) -> Vec<Option<Figure>> {
        let figure = |(percentile, rounds): (&f64, &Vec<f64>)| {
            Some(Figure { median: microseconds(&self.all, *percentile), ..Figure::of(rounds)? })
        };
        PERCENTILES.iter().zip(&self.rounds).map(figure).collect()
    }
}

fn microseconds(latency: &Histogram<u64>, percentile: f64) -> f64 {
    latency.value_at_percentile(percentile) as f64 / 1000.0
}

/// Measures each path.
pub fn measure(session: &Session) -> Result<Part> {
    let (rounds, window) = session.choose((1, 200), (9, 500));
    let window = session.window(window);
    let mut left_out = Vec::new();
    let mut results = Vec::new();
    for _ in Path::ALL {
        results.push(Results {
            medium_cost: Vec::new(),
            high_cost: Vec::new(),
            low_latency: Latency::new()?,
            medium_latency: Latency::new()?,
        });
    }
    for round in 1..=rounds {
        for i in session.order(round, Path::ALL.len()) {
            let (path, results) = (Path::ALL[i], &mut results[i]);
            session.progress(format_args!("steering: round {round} of {rounds}, {path}"));
            let costs = [&mut results.medium_cost, &mut results.high_cost];
            for (rate, costs) in [MEDIUM_RATE, HIGH_RATE].into_iter().zip(costs) {
                let name = format!("{path}, CPU time at {rate} datagrams a second");
                let cost = || cost(session, path, rate, window);
                costs.extend(measure_round(session, &mut left_out, name, cost)?);
            }
            let latencies = [&mut results.low_latency, &mut results.medium_latency];
            for (rate, latencies) in [LOW_RATE, MEDIUM_RATE].into_iter().zip(latencies) {
                let name = format!("{path}, latency at {rate} datagrams a second");
                let latency = || latency(session, path, rate, window);
                let latency = measure_round(session, &mut left_out, name, latency)?;
                latency.map_or(Ok(()), |latency| latencies.add(latency))?;
            }
        }
    }
    Ok(Part { left_out, ..report(&results) })
}

fn report(results: &[Results]) -> Part {
    let mut part = Part::new("steering", "Steering a datagram to the CPU that owns it");
    let rows = |of: &dyn Fn(&Results) -> Vec<Option<Figure>>| {
        let rows = Path::ALL.iter().zip(results);
        rows.map(|(path, results)| Row { name: path.to_string(), figures: of(results) }).collect()
    };
    let mut costs = |rate: u64, of: fn(&Results) -> &[Cost]| {
        let figures = |results: &Results, of_round: [fn(&Cost) -> f64; 2]| {
            of_round.map(|value| Figure::of(&of(results).iter().map(value).collect::<Vec<_>>()))
        };
        part.tables.push(Table {
            title: format!("{rate} datagrams a second: CPU time per datagram read, ns"),
            columns: ["receiving CPU", "owner's CPU"].map(String::from).to_vec(),
            rows: rows(&|one| figures(one, [|cost| cost.receiving, |cost| cost.owner]).to_vec()),
            ratios_to: Some(Path::Xdp.to_string()),
        });
        part.tables.push(Table {
            title: format!("{rate} datagrams a second: delivery"),
            columns: ["% read by the owner", "read a second"].map(String::from).to_vec(),
            rows: rows(&|one| figures(one, [|cost| cost.read_by_owner, |cost| cost.read]).to_vec()),
            ratios_to: None,
        });
    };
    costs(MEDIUM_RATE, |results| &results.medium_cost);
    costs(HIGH_RATE, |results| &results.high_cost);
    let latencies = |rate, of: fn(&Results) -> &Latency| Table {
        title: format!("{rate} datagrams a second: latency from sending to reading, µs"),
        columns: PERCENTILES.map(|percentile| format!("p{percentile}")).to_vec(),
        rows: rows(&|results| of(results).figures()),
        // Comparing two runs (`--against`) ignores the latencies: on a shared machine, the highest
        // latencies depend on the load of other virtual machines.
        ratios_to: None,
    };
    part.tables.extend([
        latencies(LOW_RATE, |results| &results.low_latency),
        latencies(MEDIUM_RATE, |results| &results.medium_latency),
    ]);
    part
}

fn flow(rate: u64) -> Flow {
    // The generator fills a batch of frames at a time, and drops the frames for which no packet is
    // due. At the low rate, few packets are due, so a large batch would consist mostly of dropped
    // frames.
    let batch = if rate == LOW_RATE { 8 } else { 64 };
    let valid = Rate::PerSecond(rate);
    Flow { valid, partitions: PARTITIONS, sources: SENDERS, batch, ..Flow::NONE }
}

/// Measures the CPU time. For the receiving CPU, the CPU time is the run time of its threads. For
/// the owner's CPU, the CPU time is the time that an [`IdleCounter`] loses during the window. The
/// run time of threads would be wrong on the owner's CPU, where interrupts do part of the work. The
/// scheduler adds an interrupt's time to the interrupted thread.
///
/// The counter is calibrated before and after the window, while the generator runs but sends
/// nothing. If the two CPUs are hyper-threads of one physical core, the running generator slows the
/// owner's CPU down. The calibration keeps this slowdown out of the cost of the datagrams.
fn cost(session: &Session, path: Path, rate: u64, window: Duration) -> Result<Cost> {
    let app = SteeredApplication::start(session, path)?;
    let counter = IdleCounter::start(session, session.other_cpu)?;
    let start = |flow| Generator::start(session, &app.rx.net, flow, session.rx_cpu);
    let reference = || -> Result<f64> {
        let generator = start(Flow::NONE)?;
        sleep(window / 8);
        let rate = counter.rate(window / 4);
        generator.finish()?;
        Ok(rate)
    };
    let idle_before = reference()?;
    let generator = start(flow(rate))?;
    wait_for_first_packet(|| Ok(app.read() != (0, 0)))?;
    sleep(window / 4);
    let sample = || Ok::<_, anyhow::Error>((app.run_time()?, app.read(), generator.sent()?.1));
    let before = sample()?;
    let idle_in_window = counter.rate(window);
    let after = sample()?;
    generator.finish()?;
    let idle = (idle_before + reference()?) / 2.0;

    let (on_rx_cpu, by_owner) = (after.1.0 - before.1.0, after.1.1 - before.1.1);
    let (all, sent) = ((on_rx_cpu + by_owner) as f64, (after.2 - before.2) as f64);
    if all == 0.0 || sent == 0.0 {
        return Err(NothingMeasured::because(format!("{sent} datagrams were sent, {all} read")));
    }
    if idle == 0.0 {
        return Err(NothingMeasured::because("other processes use the owner's CPU completely"));
    }
    // The real window is slightly longer than `window`, by the same amount for all paths.
    let busy = (1.0 - idle_in_window / idle).max(0.0) * window.as_nanos() as f64;
    drop(counter);
    app.finish()?;
    Ok(Cost {
        receiving: (after.0 - before.0) as f64 / all,
        owner: busy / all,
        read_by_owner: (100.0 * by_owner as f64 / sent).min(100.0),
        read: all / window.as_secs_f64(),
    })
}

/// Measures the time from sending a datagram to reading it. No [`IdleCounter`] runs meanwhile,
/// because a counter would add latency.
fn latency(session: &Session, path: Path, rate: u64, window: Duration) -> Result<Histogram<u64>> {
    let app = SteeredApplication::start(session, path)?;
    let generator = Generator::start(session, &app.rx.net, flow(rate), session.rx_cpu)?;
    wait_for_first_packet(|| Ok(app.read() != (0, 0)))?;
    sleep(window / 4);
    app.on_rx_cpu.take_latency();
    app.on_owner.take_latency();
    sleep(window);
    let mut latency = app.on_owner.take_latency();
    latency.add(app.on_rx_cpu.take_latency())?;
    generator.finish()?;
    app.finish()?;
    match latency.is_empty() {
        true => Err(NothingMeasured::because("no datagram was read")),
        false => Ok(latency),
    }
}
