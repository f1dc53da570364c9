//! How the cost of a packet grows with what surrounds it.
//!
//! Real packets of changing partitions and senders, not one packet again and again: tables
//! that do not fit into a cache cost what they cost.

use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use laminar_xdp::{SourceLimit, XdpAttachMode, XdpConfig, XdpConfigBuilder, XdpLoader};

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
}

/// Measures each step, in turn.
pub fn measure(bench: &Bench) -> Result<Part> {
    let mut part = Part::new("scaling", "How the cost grows");
    let steps = steps(bench);
    let (rounds, window) = bench.choose((1, 200), (5, 300));
    let mut costs = vec![Vec::new(); steps.len()];
    for round in 1..=rounds {
        bench.progress(format_args!("scaling: round {round} of {rounds}"));
        for (step, costs) in steps.iter().zip(&mut costs) {
            let cost = cost(bench, step, Duration::from_millis(window));
            costs.push(cost.with_context(|| format!("{} {}", step.size, step.series))?);
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
            title: format!("{series}: ns on the receiving CPU for a packet"),
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
    for size in some(&[64, 128, 256, 512, 1024, 1514]) {
        let flow = Flow { junk: Rate::Most, frame: size as usize, ..Flow::NONE };
        steps.push(Step {
            series: "bytes of a frame of junk",
            size,
            config: config(),
            flow,
            cores: 1,
        });
    }
    for partitions in some(&[64, 1024, 8192, XdpConfig::MAX_PARTITIONS]) {
        let flow = Flow { valid: Rate::Most, partitions, ..Flow::NONE };
        let config = config().partitions(partitions);
        let series = "partitions, steered";
        steps.push(Step { series, size: partitions, config, flow, cores: 1 });
    }
    // All but each sender's first are dropped, so this is what asking the table costs.
    let limit = SourceLimit { packets_per_second: 1, burst: 1 };
    for sources in some(&[1, 1024, 16_384, 65_536, 262_144]) {
        let flow = Flow { valid: Rate::Most, sources, ..Flow::NONE };
        let config = config().source_limit(limit).max_sources(sources.max(1024));
        let series = "senders beyond their limit, dropped";
        steps.push(Step { series, size: sources, config, flow, cores: 1 });
    }
    for cores in 1..=bench.all_cpus.len() {
        let flow = Flow { valid: Rate::Most, ..Flow::NONE };
        let (series, size) = ("CPUs in the map, steered", cores as u32);
        steps.push(Step { series, size, config: config(), flow, cores });
    }
    steps
}

/// Nanoseconds of the receiving CPU's polling threads for each packet.
fn cost(bench: &Bench, step: &Step, window: Duration) -> Result<f64> {
    let (cpu, other) = bench.cpus;
    let receiving = Receiving::new(bench, cpu)?;
    let config = step.config.clone().enabled(true).port(PORT).bpf_object_path("/nonexistent");
    let config = config
        .interface(receiving.wire.interface.as_str())
        .attach_mode(XdpAttachMode::Native)
        .build()?;
    let cores = &bench.all_cpus[..step.cores];
    let loader = receiving.wire.receiver.enter(|| XdpLoader::load_and_attach(&config, cores))?;
    let generator = Generator::start(bench, &receiving.wire, step.flow, other)?;
    let sample = || -> Result<[u64; 2]> { Ok([receiving.run_time()?, receiving.packets()?]) };
    sleep(window / 3);
    let before = sample()?;
    sleep(window);
    let after = sample()?;
    generator.finish()?;
    let stats = loader.stats()?;
    let judged = stats.dropped + stats.redirected;
    ensure!(stats.passed + stats.invalid == 0 && judged > 0, "not what was to be sent: {stats:?}");
    let [time, packets] = [0, 1].map(|i| (after[i] - before[i]) as f64);
    ensure!(packets > 0.0, "nothing arrived");
    Ok(time / packets)
}
