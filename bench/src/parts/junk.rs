//! Measures the CPU time that the receiving CPU spends on each packet of junk.

use std::sync::atomic::Ordering;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::harness::contenders::Contender;
use crate::harness::generator::{Flow, Rate};
use crate::harness::rounds::{NothingMeasured, measure_round, wait_for_first_packet};
use crate::harness::scenario::Scenario;
use crate::report::{Figure, Goal, Part, Row, Table, plot};
use crate::session::Session;

/// A rate that overloads no contender, in packets per second.
const LOW_RATE: u64 = 100_000;

/// Measures each contender at the maximum rate and at [`LOW_RATE`].
pub fn measure(session: &Session) -> Result<Part> {
    let mut part = Part::new("junk", "CPU time for a packet of junk");
    let contenders = Contender::available(&mut part.left_out)?;
    let (rounds, window) = session.choose((1, 200), (7, 500));
    let window = session.window(window);
    let rates = [Rate::Maximum, Rate::PerSecond(LOW_RATE)];
    let mut costs = vec![[const { Vec::new() }; 2]; contenders.len()];
    for round in 1..=rounds {
        for i in session.order(round, contenders.len()) {
            let contender = contenders[i];
            session.progress(format_args!("junk: round {round} of {rounds}, {contender}"));
            for (rate, costs) in rates.into_iter().zip(&mut costs[i]) {
                let name = format!("{contender}, {rate} packets a second");
                let cost = || cost(session, contender, rate, window);
                costs.extend(measure_round(session, &mut part.left_out, name, cost)?);
            }
        }
    }
    let rows = contenders.iter().zip(&costs).map(|(contender, costs)| Row {
        name: contender.to_string(),
        figures: costs.iter().map(|rounds| Figure::of(rounds)).collect(),
    });
    let table = Table {
        title: "CPU time of the receiving side per handled packet, ns".into(),
        columns: vec!["overload".into(), format!("{LOW_RATE} a second")],
        rows: rows.collect(),
        ratios_to: Some(Contender::EmptyProgram.to_string()),
    };

    // Returns by which factor the cost of `of` exceeds the cost of `to` at the maximum rate: the
    // median of the ratios of all rounds.
    let ratio = |of: Contender, to: Contender| {
        let rounds = |one| Some(&costs[contenders.iter().position(|other| *other == one)?][0]);
        let ratios = rounds(of)?.iter().zip(rounds(to)?).map(|(of, to)| of / to);
        Some(Figure::of(&ratios.collect::<Vec<_>>())?.median)
    };
    let baseline = ratio(Contender::Native, Contender::EmptyProgram);
    let gain = ratio(Contender::Application, Contender::Native);
    part.goals.extend(baseline.map(|ratio| {
        Goal::at_most("overload: native mode, as a multiple of the empty program", ratio, 1.05)
    }));
    part.goals.extend(gain.map(|ratio| {
        Goal::at_least("overload: application only, as a multiple of native mode", ratio, 26.0)
    }));
    let title = "CPU time per handled packet of junk, overload";
    part.plots.push(("junk.svg".into(), plot::bars(title, "ns", &table)?));
    part.tables.push(table);
    Ok(part)
}

/// Returns the run time of the polling threads and the application per handled packet, in
/// nanoseconds. A contender handles a packet by dropping it. The application without a filter
/// handles a packet by reading it. Packets that overflow the socket's buffer are not handled, but
/// the run time includes the time spent on them.
fn cost(session: &Session, contender: Contender, rate: Rate, window: Duration) -> Result<f64> {
    let scenario = Scenario::start(session, contender, Flow { junk: rate, ..Flow::NONE })?;
    let sample = || -> Result<[u64; 3]> {
        let read = scenario.received.datagrams.load(Ordering::Relaxed);
        Ok([scenario.run_time()?, scenario.packets()?, read])
    };
    // Without a filter, the application does the work, so the window must not begin before the
    // application runs.
    wait_for_first_packet(|| {
        let [_, arrived, read] = sample()?;
        Ok(if contender == Contender::Application { read > 0 } else { arrived > 0 })
    })?;
    sleep(window / 5);
    let before = sample()?;
    sleep(window);
    let after = sample()?;
    let [time, arrived, read] = [0, 1, 2].map(|i| after[i] - before[i]);
    let sent = scenario.generator.sent()?;
    let received = scenario.finish()?;
    ensure!(received.valid.load(Ordering::Relaxed) == 0, "junk was accepted as valid");
    let handled = match contender {
        Contender::Application => read,
        _ => {
            ensure!(read == 0, "{read} packets of junk were not dropped");
            arrived
        }
    };
    if handled == 0 {
        let reason = format!("no packet was handled; {arrived} arrived, {} were sent", sent.0);
        return Err(NothingMeasured::because(reason));
    }
    if let (Rate::PerSecond(rate), false) = (rate, session.quick) {
        let due = rate as f64 * window.as_secs_f64();
        let share = handled as f64 / due;
        ensure!((0.9..1.1).contains(&share), "{handled} packets were handled instead of {due:.0}");
    }
    Ok(time as f64 / handled as f64)
}
