//! What a verdict costs, in nanoseconds over an empty program.
//!
//! Every contender runs on the same frames through the kernel's own test run,
//! in turn within each round, and each round's empty program is subtracted
//! within that round, so that what else the machine does hits all alike. The
//! kernel gives whole nanoseconds, so a session's figure is the mean of the middle
//! half of its rounds; the last column is the median of the sessions, beside the
//! lowest and the highest of them.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use laminar_xdp::{SourceLimit, SourceLists, XdpConfig, XdpConfigBuilder, XdpLoader};
use laminar_xdp_prebuilt::{ByteOrder, Layer, Manifest, embedded};
use testbed::frame::{datagram, udp};
use testbed::{Wire, bpf};

const SESSIONS: usize = 7;
const ROUNDS: usize = 25;
const RUNS: u32 = 100_000;

const PORT: u16 = 9999;
const DROP: u32 = 1;
const PASS: u32 = 2;
const REDIRECT: u32 = 4;

/// A program on a frame, the verdict that it must give, and the empty program
/// that is subtracted.
struct Contender {
    name: String,
    program: OwnedFd,
    frame: Vec<u8>,
    verdict: u32,
    /// Index of the empty program with the same verdict.
    floor: usize,
}

fn main() -> ExitCode {
    if let Some(missing) = testbed::missing_rights() {
        eprintln!("error: measuring {missing}, to load XDP programs");
        return ExitCode::FAILURE;
    }
    match measure() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn measure() -> Result<()> {
    let wrong_magic = || udp(PORT, b"a payload that is long enough but no LaminarDB datagram");
    let valid = || udp(PORT, &datagram(7, b"forty bytes of payload, as most are long"));
    let other_port = || udp(PORT + 1, &datagram(7, b"somebody else's datagram"));

    // The floors first, at the indexes that the others name.
    let contender = |name: &str, program, frame, verdict, floor| Contender {
        name: name.into(),
        program,
        frame,
        verdict,
        floor,
    };
    let (redirect, _queue) = bpf::empty_redirect()?;
    let mut contenders = vec![
        contender("empty, drop", bpf::empty_program(c"drop", DROP)?, wrong_magic(), DROP, 0),
        contender("empty, redirect", redirect, valid(), REDIRECT, 1),
        contender("empty, pass", bpf::empty_program(c"pass", PASS)?, other_port(), PASS, 2),
    ];
    let floors = contenders.len();

    let mut keep_attached = Vec::new();
    for target in targets()? {
        let (wire, loader) = load(new().force_target(&target))?;
        let program = || bpf::program_by_id(loader.program_id()?);
        for (what, frame, verdict, floor) in [
            ("drop wrong magic", wrong_magic(), DROP, 0),
            ("steer valid", valid(), REDIRECT, 1),
            ("pass another port", other_port(), PASS, 2),
        ] {
            let name = format!("{target}: {what}");
            contenders.push(contender(&name, program()?, frame, verdict, floor));
        }
        keep_attached.push((loader, wire));
    }
    // What features add, each on its own: to what is dropped before the limit is asked, and
    // to what passes all of them.
    for (what, config) in features()? {
        let (wire, loader) = load(config)?;
        let program = || bpf::program_by_id(loader.program_id()?);
        for (on, frame, verdict, floor) in [
            ("drop wrong magic", wrong_magic(), DROP, 0),
            ("steer valid", valid(), REDIRECT, 1),
            ("pass another port", other_port(), PASS, 2),
        ] {
            let name = format!("{what}: {on}");
            contenders.push(contender(&name, program()?, frame, verdict, floor));
        }
        keep_attached.push((loader, wire));
    }
    match xdp_filter() {
        Ok(program) => {
            contenders.push(contender("xdp-filter: deny UDP", program, wrong_magic(), DROP, 0))
        }
        Err(error) => println!("left out: xdp-filter ({error:#}); Debian's xdp-tools has it\n"),
    }

    for Contender { name, program, frame, verdict, .. } in &contenders {
        let answer = bpf::run(program, frame, 1)?.verdict;
        ensure!(answer == *verdict, "{name}: verdict {answer}, expected {verdict}");
    }
    println!("{SESSIONS} sessions of {ROUNDS} interleaved rounds of {RUNS} runs each");
    let mut sessions: BTreeMap<usize, Vec<f64>> = BTreeMap::new();
    for session in 1..=SESSIONS {
        eprint!("\rsession {session}");
        for (contender, figure) in run_session(&contenders)?.into_iter().enumerate() {
            sessions.entry(contender).or_default().push(figure);
        }
    }
    eprintln!();
    println!("{:<34}{:>24}{:>12}", "", "ns over the empty one", "median");
    for (i, figures) in &mut sessions {
        figures.sort_by(f64::total_cmp);
        let (low, high) = (figures[0], figures[figures.len() - 1]);
        let what = if *i < floors { "(itself) " } else { "+" };
        let range = format!("{what}{low:.1}..{high:.1}");
        println!(
            "{:<34}{range:>24}{:>12}",
            contenders[*i].name,
            format!("{what}{:.1}", median(figures))
        );
    }
    Ok(())
}

fn new() -> XdpConfigBuilder {
    XdpConfig::builder().enabled(true).interface(Wire::INTERFACE).bpf_object_path("/nonexistent")
}

/// Loads on a wire of its own.
fn load(config: XdpConfigBuilder) -> Result<(Wire, XdpLoader)> {
    let (wire, config) = (Wire::new()?, config.build()?);
    let cores = testbed::online_cpus();
    let loader = wire.receiver.enter(|| XdpLoader::load_and_attach(&config, &cores))?;
    Ok((wire, loader))
}

/// The program with one feature on, which none of the frames runs into.
fn features() -> Result<Vec<(&'static str, XdpConfigBuilder)>> {
    // More than a session sends, with the pauses in which the others have their turn.
    let limit = SourceLimit {
        packets_per_second: SourceLimit::MAX_PACKETS_PER_SECOND,
        burst: SourceLimit::MAX_BURST,
    };
    // A hundred prefixes, of which none is the sender's.
    let deny = (0..100).map(|i| format!("198.51.{i}.0/24").parse()).collect::<Result<_, _>>()?;
    let lists = SourceLists { deny, allow: Vec::new() };
    let ports: Vec<u16> = (1..15).chain([PORT]).collect();
    let new = || new().force_target("linux-5.9");
    Ok(vec![
        ("16 ports, this the last", new().port(PORT - 1).more_ports(ports)),
        ("lists of 100", new().source_lists(lists.clone())),
        ("limit", new().source_limit(limit)),
        ("samples, 1 in 1000", new().drop_samples(1000)),
        ("lists, limit, samples", new().source_lists(lists).source_limit(limit).drop_samples(1000)),
    ])
}

/// The targets of this machine's XDP objects, best first.
fn targets() -> Result<Vec<String>> {
    let objects = Manifest::parse(embedded::MANIFEST)?.objects.into_iter();
    let ours =
        objects.filter(|object| object.layer == Layer::Xdp && object.byte_order == ByteOrder::HOST);
    Ok(ours.map(|object| object.target).collect())
}

/// The figure of each contender: its own time for the empty ones, the
/// difference to its empty one for the others.
fn run_session(contenders: &[Contender]) -> Result<Vec<f64>> {
    let mut rounds = vec![Vec::with_capacity(ROUNDS); contenders.len()];
    for _ in 0..ROUNDS {
        let mut times = Vec::with_capacity(contenders.len());
        for contender in contenders {
            let run = bpf::run(&contender.program, &contender.frame, RUNS)?;
            times.push(f64::from(run.nanoseconds));
        }
        for (i, contender) in contenders.iter().enumerate() {
            let floor = if contender.floor == i { 0.0 } else { times[contender.floor] };
            rounds[i].push(times[i] - floor);
        }
    }
    for round in &mut rounds {
        round.sort_by(f64::total_cmp);
    }
    Ok(rounds.iter().map(|round| middle_mean(round)).collect())
}

fn middle_mean(sorted: &[f64]) -> f64 {
    let quarter = sorted.len() / 4;
    let middle = &sorted[quarter..sorted.len() - quarter];
    middle.iter().sum::<f64>() / middle.len() as f64
}

fn median(sorted: &[f64]) -> f64 {
    sorted[sorted.len() / 2]
}

/// xdp-filter's prebuilt program that drops all UDP but what its maps allow.
/// They allow nothing here, so it drops our frame by its ports alone.
fn xdp_filter() -> Result<OwnedFd> {
    let libraries = std::fs::read_dir("/usr/lib")?;
    let path = libraries
        .filter_map(|entry| Some(entry.ok()?.path().join("bpf/xdpfilt_dny_udp.o")))
        .find(|path| path.exists())
        .context("not installed")?;
    bpf::load_file(path.to_str().context("its path")?)
}
