//! What a packet of junk costs the CPU that receives it.

use std::sync::atomic::Ordering;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::contenders::Contender;
use crate::figures::Figure;
use crate::generator::{Flow, Rate};
use crate::report::{Part, Promise, Row, Table};
use crate::standing::Standing;
use crate::{Bench, plot};

/// A rate that everybody can take, in packets a second.
const GENTLE: u64 = 100_000;

/// Measures each contender, in turn, under a flood and at a rate that all can take.
pub fn measure(bench: &Bench) -> Result<Part> {
    let mut part = Part::new("junk", "CPU time for a packet of junk");
    let contenders = Contender::available(&mut part.left_out)?;
    let (rounds, window) = bench.choose((1, 200), (7, 500));
    let rates = [Rate::Most, Rate::PerSecond(GENTLE)];
    let mut costs = vec![[const { Vec::new() }; 2]; contenders.len()];
    for round in 1..=rounds {
        for i in bench.turns(round, contenders.len()) {
            let contender = contenders[i];
            bench.progress(format_args!("junk: round {round} of {rounds}, {contender}"));
            for (rate, costs) in rates.into_iter().zip(&mut costs[i]) {
                let cost = cost(bench, contender, rate, bench.window(window));
                costs.push(cost.with_context(|| contender.to_string())?);
            }
        }
    }
    let rows = contenders.iter().zip(&costs).map(|(contender, costs)| Row {
        name: contender.to_string(),
        figures: costs.iter().map(|rounds| Some(Figure::of(rounds))).collect(),
    });
    let table = Table {
        title: "on the receiving CPU, ns for each packet dealt with".into(),
        columns: vec!["more than it can take".into(), format!("{GENTLE} a second")],
        rows: rows.collect(),
        ratios_to: Some(Contender::Floor.to_string()),
    };

    let ratio = |of: Contender, to: Contender| {
        let rounds = |one| {
            let at = contenders.iter().position(|other| *other == one)?;
            Some(&costs[at][0])
        };
        let ratios = rounds(of)?.iter().zip(rounds(to)?).map(|(of, to)| of / to);
        Some(Figure::of(&ratios.collect::<Vec<_>>()).median)
    };
    let floor = ratio(Contender::Native, Contender::Floor).context("both are always there")?;
    let gain = ratio(Contender::Application, Contender::Native).context("both are there")?;
    part.promises = vec![
        Promise::at_most("under the flood, native mode, times the empty program", floor, 1.05),
        Promise::at_least("under the flood, the application, times native mode", gain, 26.0),
    ];
    part.plots.push((
        "junk.svg".into(),
        plot::bars("CPU time for each packet of junk dealt with, under a flood", "ns", &table)?,
    ));
    part.tables.push(table);
    Ok(part)
}

/// Nanoseconds of the receiving CPU's threads for each packet that was dealt with: dropped
/// by whoever drops it. What a full buffer of a socket loses is work, but nothing done.
fn cost(bench: &Bench, contender: Contender, rate: Rate, window: Duration) -> Result<f64> {
    let standing = Standing::new(bench, contender, Flow { junk: rate, ..Flow::NONE })?;
    let sample = || -> Result<[u64; 3]> {
        let judged = standing.seen.judged.load(Ordering::Relaxed);
        Ok([standing.run_time()?, standing.packets()?, judged])
    };
    sleep(window / 5);
    let before = sample()?;
    sleep(window);
    let after = sample()?;
    let [time, arrived, judged] = [0, 1, 2].map(|i| after[i] - before[i]);
    let sent = standing.generator.sent()?;
    let seen = standing.finish()?;
    ensure!(seen.valid.load(Ordering::Relaxed) == 0, "junk was taken for valid");
    let dealt = match contender {
        Contender::Application => judged,
        _ => {
            ensure!(judged == 0, "{judged} packets of junk came through");
            arrived
        }
    };
    ensure!(dealt > 0, "nothing was dealt with; {arrived} arrived, {sent:?} were sent");
    if let (Rate::PerSecond(rate), false) = (rate, bench.quick) {
        let due = rate as f64 * window.as_secs_f64();
        let share = dealt as f64 / due;
        ensure!((0.9..1.1).contains(&share), "{dealt} dealt with where {due:.0} were to be sent");
    }
    Ok(time as f64 / dealt as f64)
}
