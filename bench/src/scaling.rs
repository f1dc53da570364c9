//! How the cost of a packet grows with what surrounds it.
//!
//! Real packets of changing partitions and senders, not one packet again and again: tables
//! that do not fit into a cache cost what they cost.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use laminar_xdp::{SourceLimit, XdpAttachMode, XdpConfig, XdpConfigBuilder, XdpLoader, XdpStats};

use crate::figures::Figure;
use crate::generator::{Flow, Generator, Rate};
use crate::receiving::{PORT, Receiving};
use crate::report::{Part, Row, Table};
use crate::{Bench, plot};

/// What grows, one step of it.
struct Step {
    /// What.
    series: &'static str,
    /// How far.
    size: u32,
    config: XdpConfigBuilder,
    flow: Flow,
    cores: usize,
    verdict: Verdict,
}

/// What becomes of all packets, but for each sender's first.
enum Verdict {
    Drop,
    Redirect,
}

/// How long it may take until each sender was seen.
const PATIENCE: Duration = Duration::from_secs(10);

/// Measures each step, in turn.
pub fn measure(bench: &Bench) -> Result<Part> {
    let mut part = Part::new("scaling", "How the cost grows");
    let steps = steps(bench);
    let (rounds, window) = bench.choose((1, 200), (9, 200));
    let mut costs = vec![Vec::new(); steps.len()];
    for round in 1..=rounds {
        bench.progress(format_args!("scaling: round {round} of {rounds}"));
        for i in bench.turns(round, steps.len()) {
            let step = &steps[i];
            let cost = cost(bench, step, bench.window(window));
            costs[i].push(cost.with_context(|| format!("{} {}", step.size, step.series))?);
        }
    }
    let mut series: Vec<&str> = steps.iter().map(|step| step.series).collect();
    series.dedup();
    let mut lines = Vec::new();
    for series in series {
        let of = || steps.iter().zip(&costs).filter(|(step, _)| step.series == series);
        let rows: Vec<Row> = of()
            .map(|(step, costs)| Row {
                name: step.size.to_string(),
                figures: vec![Some(Figure::of(costs))],
            })
            .collect();
        let smallest = rows.first().map(|row| row.name.clone());
        part.tables.push(Table {
            title: format!("{series}: ns of the polling thread for a packet"),
            columns: vec!["ns".into()],
            rows,
            ratios_to: smallest,
        });
        // As steps, so that what doubles and what grows a little fit into one picture.
        let points = of().enumerate().map(|(i, (_, costs))| (i as f64, Figure::of(costs).median));
        lines.push((series.to_owned(), points.collect()));
    }
    let axes = ("step of the table", "ns a packet");
    part.plots.push(("scaling.svg".into(), plot::lines("How the cost grows", axes, &lines)?));
    Ok(part)
}

fn steps(bench: &Bench) -> Vec<Step> {
    let config = XdpConfig::builder;
    let some = |sizes: &[u32]| match sizes {
        [first, .., last] if bench.quick => vec![*first, *last],
        all => all.to_vec(),
    };
    let mut steps = Vec::new();
    let mut step = |series, size, config, flow, cores, verdict| {
        steps.push(Step { series, size, config, flow, cores, verdict });
    };
    for size in some(&[64, 128, 256, 512, 1024, 1514]) {
        let flow = Flow { junk: Rate::Most, frame: size as usize, ..Flow::NONE };
        step("bytes of a frame of junk", size, config(), flow, 1, Verdict::Drop);
    }
    for partitions in some(&[64, 1024, 8192, XdpConfig::MAX_PARTITIONS]) {
        let flow = Flow { valid: Rate::Most, partitions, ..Flow::NONE };
        let config = config().partitions(partitions);
        step("partitions, redirected", partitions, config, flow, 1, Verdict::Redirect);
    }
    // All but each sender's first are dropped, so this is what asking the table costs.
    let limit = SourceLimit::per_second(1).burst(1);
    for sources in some(&[1, 1024, 16_384, 65_536, 262_144]) {
        let flow = Flow { valid: Rate::Most, sources, ..Flow::NONE };
        // With room, as the kernel keeps free places for each CPU and so forgets early.
        let config = config().source_limit(limit).max_sources(sources * 4);
        let series = "senders beyond their limit, dropped";
        step(series, sources, config, flow, 1, Verdict::Drop);
    }
    for cores in 1..=bench.all_cpus.len() {
        let flow = Flow { valid: Rate::Most, ..Flow::NONE };
        let series = "CPUs in the map, redirected";
        step(series, cores as u32, config(), flow, cores, Verdict::Redirect);
    }
    steps
}

/// Nanoseconds of the receiving CPU's polling threads for each packet: up to the queue of a
/// CPU, and not what the CPU behind it does.
fn cost(bench: &Bench, step: &Step, window: Duration) -> Result<f64> {
    let (cpu, other) = bench.cpus;
    let mut receiving = Receiving::new(bench, cpu)?;
    let config = step.config.clone().enabled(true).port(PORT).bpf_object_path("/nonexistent");
    let config = config
        .interface(receiving.wire.interface.as_str())
        .attach_mode(XdpAttachMode::Native)
        .build()?;
    // From the last one on, so that the one that receives comes in last.
    let cores: Vec<u32> = bench.all_cpus.iter().rev().copied().take(step.cores).collect();
    let loader = receiving.wire.receiver.enter(|| XdpLoader::load_and_attach(&config, &cores))?;
    receiving.settle()?;
    let generator = Generator::start(bench, &receiving.wire, step.flow, other)?;
    let sample = || -> Result<([u64; 2], XdpStats)> {
        Ok(([receiving.run_time()?, receiving.packets()?], loader.stats()?))
    };
    sleep(window / 3);
    // Each sender has been seen, and its bucket is empty.
    let begin = Instant::now();
    while loader.stats()?.total() < 2 * u64::from(step.flow.sources) {
        ensure!(begin.elapsed() < PATIENCE, "too few packets come");
        sleep(window / 10);
    }
    let (before, stats_before) = sample()?;
    sleep(window);
    let (after, stats) = sample()?;
    generator.finish()?;
    let all = stats.total() - stats_before.total();
    let expected = match step.verdict {
        Verdict::Drop => stats.dropped - stats_before.dropped,
        Verdict::Redirect => stats.redirected - stats_before.redirected,
    };
    ensure!(all > 0, "nothing arrived");
    ensure!(expected * 100 >= all * 95, "{expected} of {all} are what they should be: {stats:?}");
    let [time, packets] = [0, 1].map(|i| (after[i] - before[i]) as f64);
    Ok(time / packets)
}
