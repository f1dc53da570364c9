//! What arrives of the valid datagrams while junk pours in.

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

/// Valid datagrams in a second.
const VALID: u64 = 20_000;

/// Packets of junk in a second, up to as many as the generator makes.
const RATES: [Rate; 9] = [
    Rate::None,
    Rate::PerSecond(100_000),
    Rate::PerSecond(200_000),
    Rate::PerSecond(400_000),
    Rate::PerSecond(800_000),
    Rate::PerSecond(1_600_000),
    Rate::PerSecond(3_200_000),
    Rate::PerSecond(4_800_000),
    Rate::Most,
];

/// What one window showed: the share of the valid ones that arrived, in percent, and the
/// packets of junk sent in a second.
struct Seconds {
    share: f64,
    junk: f64,
}

/// Measures each contender, in turn, at each rate.
pub fn measure(bench: &Bench) -> Result<Part> {
    let mut part = Part::new("flood", "Valid datagrams that arrive under a flood of junk");
    let mut contenders = Contender::available(&mut part.left_out)?;
    contenders.retain(|one| *one != Contender::Floor);
    let (rounds, window) = bench.choose((1, 200), (3, 400));
    let rates: &[Rate] = if bench.quick { &[Rate::None, Rate::Most] } else { &RATES };
    let mut shares = vec![vec![Vec::new(); rates.len()]; contenders.len()];
    let mut junk = shares.clone();
    for round in 1..=rounds {
        for i in bench.turns(round, contenders.len()) {
            let contender = contenders[i];
            bench.progress(format_args!("flood: round {round} of {rounds}, {contender}"));
            for (j, rate) in rates.iter().enumerate() {
                let seconds = flood(bench, contender, *rate, bench.window(window))
                    .with_context(|| format!("{contender} at {rate:?}"))?;
                shares[i][j].push(seconds.share);
                junk[i][j].push(seconds.junk);
            }
        }
    }
    let figures = |of: &[Vec<f64>]| of.iter().map(|rounds| Some(Figure::of(rounds))).collect();
    let rows = |of: &[Vec<Vec<f64>>]| {
        let rows = contenders.iter().zip(of);
        rows.map(|(one, of)| Row { name: one.to_string(), figures: figures(of) }).collect()
    };
    let columns: Vec<String> = rates
        .iter()
        .map(|rate| match rate {
            Rate::None => "none".into(),
            Rate::PerSecond(packets) => format!("{} k", packets / 1000),
            Rate::Most => "the most".into(),
        })
        .collect();
    let table = |title: &str, of| Table {
        title: title.into(),
        columns: columns.clone(),
        rows: rows(of),
        ratios_to: None,
    };
    let arrived =
        table("% of 20,000 valid datagrams a second that arrive, by junk a second", &shares);
    let sent = table("packets of junk that were sent in a second", &junk);

    // The least flood that leaves next to nothing of what plain sockets get, or the worst.
    let of = |one| {
        let at = contenders.iter().position(|other| *other == one)?;
        Some(shares[at].iter().map(|rounds| Figure::of(rounds).median).collect::<Vec<f64>>())
    };
    let (native, plain) =
        of(Contender::Native).zip(of(Contender::Application)).context("both are there")?;
    let at = plain.iter().position(|share| *share < 10.0).unwrap_or(plain.len() - 1);
    let flood = &columns[at];
    part.promises = vec![
        Promise::at_most(&format!("% that plain sockets get, junk: {flood}"), plain[at], 10.0),
        Promise::at_least(&format!("% that native mode gets, junk: {flood}"), native[at], 99.0),
    ];
    let line = |i: usize| {
        let points = junk[i].iter().zip(&shares[i]);
        points.map(|(x, y)| (Figure::of(x).median, Figure::of(y).median)).collect()
    };
    let lines: Vec<_> =
        (0..contenders.len()).map(|i| (contenders[i].to_string(), line(i))).collect();
    let plot = plot::lines(
        "Valid datagrams that arrive under a flood",
        ("packets of junk sent in a second", "% that arrive"),
        &lines,
    )?;
    part.plots.push(("flood.svg".into(), plot));
    part.tables.extend([arrived, sent]);
    Ok(part)
}

fn flood(bench: &Bench, contender: Contender, junk: Rate, window: Duration) -> Result<Seconds> {
    let flow = Flow { junk, valid: Rate::PerSecond(VALID), ..Flow::NONE };
    let standing = Standing::new(bench, contender, flow)?;
    let sample = || -> Result<[u64; 3]> {
        let (junk, valid) = standing.generator.sent()?;
        Ok([junk, valid, standing.seen.valid.load(Ordering::Relaxed)])
    };
    // Until the buffers are as full as they get.
    sleep(window / 2);
    let before = sample()?;
    sleep(window);
    let after = sample()?;
    let [junk, valid, arrived] = [0, 1, 2].map(|i| (after[i] - before[i]) as f64);
    standing.finish()?;
    ensure!(valid > 0.0, "no valid datagram was sent");
    // What was under way at the beginning and arrives in the window is at most a buffer.
    Ok(Seconds { share: (100.0 * arrived / valid).min(100.0), junk: junk / window.as_secs_f64() })
}
