//! Measures how the cost of a packet grows with the frame size and with the numbers of
//! partitions, senders and CPUs.
//!
//! The partition and the sender change from packet to packet, so the lookups touch the whole BPF
//! map. If the map is larger than the CPU's cache, the figures therefore include cache misses.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use laminar_xdp::{SourceLimit, XdpAttachMode, XdpConfig, XdpConfigBuilder, XdpLoader, XdpStats};

use crate::harness::generator::{Flow, Generator, Rate};
use crate::harness::rounds::{NothingMeasured, measure_round, wait_for_first_packet};
use crate::harness::rx_interface::{PORT, RxInterface};
use crate::report::{Figure, Part, Row, Table, plot};
use crate::session::Session;

/// One step of a series.
struct Step {
    /// The name of the quantity that grows.
    series: &'static str,
    /// The value of that quantity at this step.
    size: u32,
    config: XdpConfigBuilder,
    flow: Flow,
    cpus: usize,
    verdict: Verdict,
}

/// The expected verdict. The verdict on the first packet of each sender may be different.
enum Verdict {
    Drop,
    Redirect,
}

/// Measures each step.
pub fn measure(session: &Session) -> Result<Part> {
    let mut part = Part::new("scaling", "How the cost of a packet grows");
    let steps = steps(session);
    let (rounds, window) = session.choose((1, 200), (9, 200));
    let window = session.window(window);
    let mut costs = vec![Vec::new(); steps.len()];
    for round in 1..=rounds {
        session.progress(format_args!("scaling: round {round} of {rounds}"));
        for i in session.order(round, steps.len()) {
            let step = &steps[i];
            let name = format!("{} {}", step.size, step.series);
            let cost = || cost(session, step, window);
            costs[i].extend(measure_round(session, &mut part.left_out, name, cost)?);
        }
    }
    let mut series: Vec<&str> = steps.iter().map(|step| step.series).collect();
    series.dedup();
    let mut lines = Vec::new();
    for series in series {
        let of = steps.iter().zip(&costs).filter(|(step, _)| step.series == series);
        let row = |(step, costs): (&Step, &Vec<f64>)| Row {
            name: step.size.to_string(),
            figures: vec![Figure::of(costs)],
        };
        let rows: Vec<Row> = of.map(row).collect();
        // The sizes differ too much between the series to share an axis, so the x axis shows the
        // number of the step.
        let point = |(i, row): (usize, &Row)| Some((i as f64, row.figures[0].as_ref()?.median));
        lines.push((series.to_owned(), rows.iter().enumerate().filter_map(point).collect()));
        part.tables.push(Table {
            title: format!("{series}: run time of the polling thread per packet"),
            columns: vec!["ns".into()],
            ratios_to: rows.first().map(|row| row.name.clone()),
            rows,
        });
    }
    let axes = ("step of the table", "ns per packet");
    let title = "How the cost of a packet grows";
    part.plots.push(("scaling.svg".into(), plot::lines(title, axes, &lines)?));
    Ok(part)
}

fn steps(session: &Session) -> Vec<Step> {
    let config = XdpConfig::builder;
    let select = |sizes: &[u32]| match sizes {
        [first, .., last] if session.quick => vec![*first, *last],
        all => all.to_vec(),
    };
    let mut steps = Vec::new();
    let mut step = |series, size, config, flow, cpus, verdict| {
        steps.push(Step { series, size, config, flow, cpus, verdict });
    };
    for size in select(&[64, 128, 256, 512, 1024, 1514]) {
        let flow = Flow { junk: Rate::Maximum, frame: size as usize, ..Flow::NONE };
        step("bytes of a frame of junk", size, config(), flow, 1, Verdict::Drop);
    }
    for partitions in select(&[64, 1024, 8192, XdpConfig::MAX_PARTITIONS]) {
        let flow = Flow { valid: Rate::Maximum, partitions, ..Flow::NONE };
        let config = config().partitions(partitions);
        step("partitions, redirected", partitions, config, flow, 1, Verdict::Redirect);
    }
    // The limit drops every packet of a sender except the first one. Before each drop, the program
    // looks the sender up, so this series measures a lookup in the map of senders.
    let limit = SourceLimit::per_second(1).burst(1);
    for sources in select(&[1, 1024, 16_384, 65_536, 262_144]) {
        let flow = Flow { valid: Rate::Maximum, sources, ..Flow::NONE };
        // The map has four times as many entries as there are senders. The kernel reserves free
        // entries for each CPU. In a smaller map, the kernel would therefore evict senders before
        // the map is full.
        let config = config().source_limit(limit).max_sources(sources * 4);
        step("senders over their limit, dropped", sources, config, flow, 1, Verdict::Drop);
    }
    for cpus in 1..=session.all_cpus.len() {
        let flow = Flow { valid: Rate::Maximum, ..Flow::NONE };
        let series = "CPUs in the map, redirected";
        step(series, cpus as u32, config(), flow, cpus, Verdict::Redirect);
    }
    steps
}

/// Returns the run time of the polling threads per packet, in nanoseconds. This time includes the
/// insertion into the queue of the target CPU, but not the work of the target CPU.
fn cost(session: &Session, step: &Step, window: Duration) -> Result<f64> {
    let mut rx = RxInterface::new(session, session.rx_cpu)?;
    let config = step.config.clone().enabled(true).port(PORT).bpf_object_path("/nonexistent");
    let config =
        config.interface(rx.net.interface.as_str()).attach_mode(XdpAttachMode::Native).build()?;
    // `all_cpus` begins with the receiving CPU. The order is reversed, so that the receiving CPU
    // becomes a target only in the step that uses all CPUs.
    let cpus: Vec<u32> = session.all_cpus.iter().rev().copied().take(step.cpus).collect();
    let loader = rx.net.receiver.enter(|| XdpLoader::load_and_attach(&config, &cpus))?;
    rx.bind_threads()?;
    let generator = Generator::start(session, &rx.net, step.flow, session.other_cpu)?;
    let sample = || -> Result<([u64; 2], XdpStats)> {
        Ok(([rx.run_time()?, rx.packets()?], loader.stats()?))
    };
    // The time within which the generator must have sent from every source address.
    let timeout = Duration::from_secs(session.choose(3, 10));
    let begin = Instant::now();
    wait_for_first_packet(|| Ok(rx.packets()? > 0))?;
    sleep(window / 3);
    // The window must not begin before the program knows every sender and every sender is over its
    // limit.
    while loader.stats()?.total() < 2 * u64::from(step.flow.sources) {
        if begin.elapsed() > timeout {
            return Err(NothingMeasured::because("too few packets arrive"));
        }
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
    let [time, packets] = [0, 1].map(|i| (after[i] - before[i]) as f64);
    if all == 0 || packets == 0.0 {
        return Err(NothingMeasured::because("no packet arrived"));
    }
    if expected * 100 < all * 95 {
        let verdicts = format!("{expected} of {all} packets have the expected verdict");
        // The limit allows one packet of each sender at the beginning, and one more per second. If
        // the generator is slow, it returns to the same sender after more than a second, and many
        // packets are within the limit.
        let seconds = begin.elapsed().as_secs_f64();
        let within_limit = f64::from(step.flow.sources) * (1.0 + seconds);
        let limited = matches!(step.verdict, Verdict::Drop) && step.flow.valid != Rate::Zero;
        ensure!(limited && stats.redirected as f64 <= within_limit, "{verdicts}: {stats:?}");
        let reason = format!("{verdicts}: the generator is too slow for the limit");
        return Err(NothingMeasured::because(reason));
    }
    Ok(time / packets)
}
