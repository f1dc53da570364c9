//! Measures how many valid datagrams arrive while junk floods the interface.

use std::sync::atomic::Ordering;
use std::thread::sleep;
use std::time::Duration;

use anyhow::Result;

use crate::harness::contenders::Contender;
use crate::harness::generator::{Flow, Rate};
use crate::harness::rounds::{NothingMeasured, measure_round, wait_for_first_packet};
use crate::harness::scenario::Scenario;
use crate::report::{Figure, Goal, Part, Row, Table, plot};
use crate::session::Session;

/// The rate of valid datagrams, in datagrams per second.
const VALID: u64 = 20_000;

/// The rates of junk to measure.
const RATES: [Rate; 9] = [
    Rate::Zero,
    Rate::PerSecond(100_000),
    Rate::PerSecond(200_000),
    Rate::PerSecond(400_000),
    Rate::PerSecond(800_000),
    Rate::PerSecond(1_600_000),
    Rate::PerSecond(3_200_000),
    Rate::PerSecond(4_800_000),
    Rate::Maximum,
];

/// The result of one window.
struct Window {
    /// The share of the valid datagrams that arrived, in percent.
    arrived: f64,
    /// The rate at which junk was really sent, in packets per second.
    junk: f64,
}

/// Measures each contender at each rate.
pub fn measure(session: &Session) -> Result<Part> {
    let mut part = Part::new("flood", "Valid datagrams that arrive under a flood of junk");
    let mut contenders = Contender::available(&mut part.left_out)?;
    contenders.retain(|one| *one != Contender::EmptyProgram);
    let (rounds, window) = session.choose((1, 200), (3, 400));
    let window = session.window(window);
    let rates: &[Rate] = if session.quick { &[Rate::Zero, Rate::Maximum] } else { &RATES };
    let mut arrived = vec![vec![Vec::new(); rates.len()]; contenders.len()];
    let mut junk = arrived.clone();
    for round in 1..=rounds {
        for i in session.order(round, contenders.len()) {
            let contender = contenders[i];
            session.progress(format_args!("flood: round {round} of {rounds}, {contender}"));
            for (j, rate) in rates.iter().enumerate() {
                let name = format!("{contender}, junk: {rate}");
                let flood = || flood(session, contender, *rate, window);
                let result = measure_round(session, &mut part.left_out, name, flood)?;
                arrived[i][j].extend(result.as_ref().map(|result| result.arrived));
                junk[i][j].extend(result.as_ref().map(|result| result.junk));
            }
        }
    }
    let figures = |of: &[Vec<f64>]| of.iter().map(|rounds| Figure::of(rounds)).collect();
    let rows = |of: &[Vec<Vec<f64>>]| {
        let rows = contenders.iter().zip(of);
        rows.map(|(one, of)| Row { name: one.to_string(), figures: figures(of) }).collect()
    };
    let table = |title: &str, of| Table {
        title: title.into(),
        columns: rates.iter().map(Rate::to_string).collect(),
        rows: rows(of),
        ratios_to: None,
    };
    let arrived = table(
        "valid datagrams that arrive, % of 20,000 a second, by packets of junk a second",
        &arrived,
    );
    let junk = table("packets of junk sent a second", &junk);
    part.goals = goals(&arrived).unwrap_or_default();
    let plot = plot::lines(
        "Valid datagrams that arrive under a flood",
        ("packets of junk sent a second", "% that arrive"),
        &lines(&junk, &arrived),
    )?;
    part.plots.push(("flood.svg".into(), plot));
    part.tables.extend([arrived, junk]);
    Ok(part)
}

/// Returns the goals. The goals apply at the lowest rate of junk at which the application without a
/// filter receives less than 10 % of the valid datagrams. If there is no such rate, the goals apply
/// at the maximum rate.
fn goals(arrived: &Table) -> Option<Vec<Goal>> {
    let of = |contender: Contender| {
        let row = arrived.rows.iter().find(|row| row.name == contender.to_string())?;
        let medians = row.figures.iter().map(|figure| Some(figure.as_ref()?.median));
        medians.collect::<Option<Vec<f64>>>()
    };
    let (native, plain) = (of(Contender::Native)?, of(Contender::Application)?);
    let at = plain.iter().position(|share| *share < 10.0).unwrap_or(plain.len() - 1);
    let junk = &arrived.columns[at];
    Some(vec![
        Goal::at_most(&format!("% that plain sockets receive, junk: {junk}"), plain[at], 10.0),
        Goal::at_least(&format!("% that native mode receives, junk: {junk}"), native[at], 99.0),
    ])
}

/// Returns one line for each contender. The x axis is the rate of junk, and the y axis is the share
/// of valid datagrams that arrived.
fn lines(junk: &Table, arrived: &Table) -> Vec<(String, Vec<(f64, f64)>)> {
    let rows = junk.rows.iter().zip(&arrived.rows);
    let points =
        |(x, y): (&Option<Figure>, &Option<Figure>)| Some((x.as_ref()?.median, y.as_ref()?.median));
    let line = |(junk, arrived): (&Row, &Row)| {
        let figures = junk.figures.iter().zip(&arrived.figures);
        (junk.name.clone(), figures.filter_map(points).collect())
    };
    rows.map(line).collect()
}

fn flood(session: &Session, contender: Contender, junk: Rate, window: Duration) -> Result<Window> {
    let flow = Flow { junk, valid: Rate::PerSecond(VALID), ..Flow::NONE };
    let scenario = Scenario::start(session, contender, flow)?;
    let sample = || -> Result<[u64; 3]> {
        let (junk, valid) = scenario.generator.sent()?;
        Ok([junk, valid, scenario.received.valid.load(Ordering::Relaxed)])
    };
    wait_for_first_packet(|| Ok(scenario.received.datagrams.load(Ordering::Relaxed) > 0))?;
    // Loss begins only after the buffers are full, so wait until they are.
    sleep(window / 2);
    let before = sample()?;
    sleep(window);
    let after = sample()?;
    let [junk, valid, arrived] = [0, 1, 2].map(|i| (after[i] - before[i]) as f64);
    scenario.finish()?;
    if valid == 0.0 {
        return Err(NothingMeasured::because("no valid datagram was sent"));
    }
    // The computed share can exceed 100 %. A datagram that was sent before the window, and waited
    // in a buffer, counts if it arrives within the window.
    let arrived = (100.0 * arrived / valid).min(100.0);
    Ok(Window { arrived, junk: junk / window.as_secs_f64() })
}
