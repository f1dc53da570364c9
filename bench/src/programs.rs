//! What a verdict costs, in nanoseconds over an empty program.
//!
//! Every contender runs on the same frames through the kernel's own test run, in turn
//! within each round, and each round's empty program with the same verdict is subtracted
//! within that round, so that what else the machine does hits all alike. The kernel gives
//! whole nanoseconds, hence the mean of the middle half of the rounds.

use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use anyhow::{Context, Result, ensure};
use laminar_xdp::{SourceLimit, SourceLists, XdpConfig, XdpConfigBuilder, XdpLoader};
use laminar_xdp_prebuilt::{ByteOrder, Layer, Manifest, embedded};
use testbed::bpf::{XDP_DROP, XDP_PASS, XDP_REDIRECT};
use testbed::{TestNet, bpf, frame};

use crate::figures::Figure;
use crate::peers::{self, RedirectCpu};
use crate::receiving::PORT;
use crate::report::{Part, Promise, Row, Table};
use crate::{Bench, plot};

/// What every program is measured on; the default one is on all paths.
const COMMON: [&str; 3] = ["drop: wrong magic", "redirect: valid", "pass: another port"];

/// A frame, what a program of ours answers to it, and what it is.
struct Case {
    name: &'static str,
    frame: Vec<u8>,
    verdict: u32,
}

/// A program on a frame.
struct Contender {
    name: String,
    program: Rc<OwnedFd>,
    frame: Vec<u8>,
    verdict: u32,
    rounds: Vec<f64>,
}

/// A program, and the cases on which it is measured: by our names, the columns.
struct Entry {
    name: String,
    program: Rc<OwnedFd>,
    /// Indexes into the columns and the contenders.
    cases: Vec<(usize, usize)>,
}

/// Measures every program that can be had.
pub fn measure(bench: &Bench) -> Result<Part> {
    let mut part = Part::new("programs", "The programs alone");
    let cases = cases();
    let mut contenders = floors(&cases)?;
    let mut entries: Vec<Entry> = Vec::new();
    let mut keep = Vec::new();
    let mut add = |name: &str, program: OwnedFd, names: &[(&str, Option<u32>)]| {
        let program = Rc::new(program);
        let mut entry = Entry { name: name.into(), program: program.clone(), cases: Vec::new() };
        for (name, verdict) in names {
            let at = cases.iter().position(|case| case.name == *name).expect("a name of a case");
            entry.cases.push((at, contenders.len()));
            contenders.push(Contender {
                name: format!("{}, {name}", entry.name),
                program: program.clone(),
                frame: cases[at].frame.clone(),
                verdict: verdict.unwrap_or(cases[at].verdict),
                rounds: Vec::new(),
            });
        }
        entries.push(entry);
    };

    let all: Vec<_> = cases.iter().map(|case| (case.name, None)).collect();
    let common = COMMON.map(|name| (name, None));
    let plain: Vec<_> = all.iter().copied().filter(|case| !GUARDED.contains(&case.0)).collect();
    for target in targets()? {
        let (wire, loader) = load(new().force_target(&target), &bench.cpus)?;
        let which: &[_] = if target == DEFAULT { &plain } else { &common };
        add(&target, bpf::program_by_id(loader.program_id()?)?, which);
        keep.push((wire, loader));
    }
    for (name, config, which) in features()? {
        let (wire, loader) = load(config, &bench.cpus)?;
        let which: Vec<_> = which.into_iter().map(|name| (name, None)).collect();
        add(name, bpf::program_by_id(loader.program_id()?)?, &which);
        keep.push((wire, loader));
    }

    let (drops, passes) = (Some(XDP_DROP), Some(XDP_PASS));
    let minimal = bpf::load_file(&bench.program("minimal")?)?;
    add("by hand: UDP, port, drop", minimal, &[(COMMON[0], None), (COMMON[2], None)]);
    for (name, file, verdict) in [
        ("xdp-filter, deny UDP", "xdpfilt_dny_udp.o", drops),
        ("xdp-filter, allow UDP", "xdpfilt_alw_udp.o", passes),
    ] {
        match peers::xdp_filter(file) {
            Ok(program) => add(name, program, &[(COMMON[0], verdict)]),
            Err(error) => part.left_out.push(format!("{name}: {error:#}")),
        }
    }
    let mut processes = Vec::new();
    for mode in ["no-touch", "l4-hash"] {
        let name = format!("xdp-bench redirect-cpu, {mode}");
        match RedirectCpu::start(mode, bench.cpus.0) {
            Ok(peer) => {
                let program = peer.program.as_fd().try_clone_to_owned()?;
                add(&name, program, &[(COMMON[1], None)]);
                processes.push(peer);
            }
            Err(error) => part.left_out.push(format!("{name}: {error:#}")),
        }
    }

    run(bench, &mut contenders)?;
    report(&mut part, &cases, &contenders, &entries)?;
    Ok(part)
}

/// The object that serves first.
const DEFAULT: &str = "linux-5.9";
/// Cases that need a feature.
const GUARDED: [&str; 2] = ["drop: denied", "drop: rate"];

/// Every path to a verdict.
fn cases() -> Vec<Case> {
    let junk = b"a payload that is long enough but no LaminarDB datagram";
    let valid = frame::datagram(7, b"forty bytes of payload, as most are long");
    let udp = |payload: &[u8]| frame::udp(PORT, payload);
    let mut wrong_length = valid.clone();
    wrong_length[11] += 1;
    let mut not_ip = udp(&valid);
    not_ip[12..14].copy_from_slice(&[0x08, 0x06]);
    let denied: IpAddr = [198, 51, 42, 7].into();
    let case = |name, verdict, frame| Case { name, frame, verdict };
    vec![
        case(COMMON[0], XDP_DROP, udp(junk)),
        case(COMMON[1], XDP_REDIRECT, udp(&valid)),
        case(COMMON[2], XDP_PASS, frame::udp(PORT + 1, &valid)),
        case("drop: short", XDP_DROP, udp(b"short")),
        case("drop: wrong length", XDP_DROP, udp(&wrong_length)),
        case("drop: magic, IPv6", XDP_DROP, frame::udp_ipv6(PORT, junk, &[])),
        case("drop: magic, one VLAN tag", XDP_DROP, frame::tagged(&udp(junk), &[0x8100])),
        case("pass: not IP", XDP_PASS, not_ip),
        case("pass: fragment", XDP_PASS, frame::fragment(PORT, &valid, 0, true)),
        case("pass: invalid", XDP_PASS, frame::with_udp_length(udp(&valid), 7)),
        case("drop: denied", XDP_DROP, frame::udp_from(denied, PORT, &valid)),
        case("drop: rate", XDP_DROP, frame::udp_from([192, 0, 2, 77].into(), PORT, &valid)),
    ]
}

/// The empty program of each verdict, at the index of the verdict's first case.
fn floors(cases: &[Case]) -> Result<Vec<Contender>> {
    let (redirect, _queue) = bpf::empty_redirect()?;
    let drop = bpf::empty_program(c"drop", XDP_DROP)?;
    let pass = bpf::empty_program(c"pass", XDP_PASS)?;
    let floor = |program, case: &Case| Contender {
        name: format!("an empty program, {}", case.name),
        program: Rc::new(program),
        frame: case.frame.clone(),
        verdict: case.verdict,
        rounds: Vec::new(),
    };
    Ok(vec![floor(drop, &cases[0]), floor(redirect, &cases[1]), floor(pass, &cases[2])])
}

/// The index of the empty program with a verdict.
fn floor_of(verdict: u32) -> usize {
    match verdict {
        XDP_DROP => 0,
        XDP_REDIRECT => 1,
        _ => 2,
    }
}

fn new() -> XdpConfigBuilder {
    XdpConfig::builder()
        .enabled(true)
        .interface(TestNet::INTERFACE)
        .port(PORT)
        .bpf_object_path("/nonexistent")
}

/// Loads on a wire of its own.
fn load(config: XdpConfigBuilder, cpus: &(u32, u32)) -> Result<(TestNet, XdpLoader)> {
    let (wire, config) = (TestNet::new()?, config.build()?);
    let cores = [cpus.0, cpus.1];
    let loader = wire.receiver.enter(|| XdpLoader::load_and_attach(&config, &cores))?;
    Ok((wire, loader))
}

/// The program with one feature on, and the cases on which it is measured.
fn features() -> Result<Vec<(&'static str, XdpConfigBuilder, Vec<&'static str>)>> {
    // More than a session sends, with the pauses in which the others have their turn.
    let limit =
        SourceLimit::per_second(SourceLimit::MAX_PACKETS_PER_SECOND).burst(SourceLimit::MAX_BURST);
    // A hundred prefixes, of which none is the sender's.
    let deny = (0..100).map(|i| format!("198.51.{i}.0/24").parse());
    let lists = SourceLists::new().deny(deny.collect::<Result<Vec<_>, _>>()?);
    let ports: Vec<u16> = (1..15).chain([PORT]).collect();
    let tight = SourceLimit::per_second(1).burst(1);
    let new = || new().force_target(DEFAULT);
    let common = || COMMON.to_vec();
    Ok(vec![
        ("16 ports, this the last", new().port(PORT - 1).more_ports(ports), common()),
        ("lists of 100", new().source_lists(lists.clone()), [common(), vec![GUARDED[0]]].concat()),
        ("limit", new().source_limit(limit), common()),
        ("limit of 1 a second", new().source_limit(tight), vec![GUARDED[1]]),
        ("samples, 1 in 1000", new().drop_samples(1000), common()),
        (
            "lists, limit, samples",
            new().source_lists(lists).source_limit(limit).drop_samples(1000),
            common(),
        ),
    ])
}

/// The targets of this machine's XDP objects, best first.
fn targets() -> Result<Vec<String>> {
    let objects = Manifest::parse(embedded::MANIFEST)?.objects.into_iter();
    let ours =
        objects.filter(|object| object.layer == Layer::Xdp && object.byte_order == ByteOrder::HOST);
    Ok(ours.map(|object| object.target).collect())
}

fn run(bench: &Bench, contenders: &mut [Contender]) -> Result<()> {
    let (rounds, runs) = bench.choose((5, 10_000), (175, 100_000));
    for Contender { name, program, frame, verdict, .. } in contenders.iter() {
        // The answer is that of the last: a bucket of one packet is empty after the first.
        let answer = bpf::run(program, frame, 2)?.verdict;
        ensure!(answer == *verdict, "{name}: verdict {answer}, expected {verdict}");
    }
    for round in 0..rounds {
        if round % 25 == 0 {
            bench.progress(format_args!("programs: round {} of {rounds}", round + 1));
        }
        let mut times = Vec::with_capacity(contenders.len());
        for contender in contenders.iter() {
            let run = bpf::run(&contender.program, &contender.frame, runs)?;
            times.push(f64::from(run.nanoseconds));
        }
        for (i, contender) in contenders.iter_mut().enumerate() {
            let floor = floor_of(contender.verdict);
            contender.rounds.push(if i == floor { times[i] } else { times[i] - times[floor] });
        }
    }
    Ok(())
}

fn report(
    part: &mut Part,
    cases: &[Case],
    contenders: &[Contender],
    entries: &[Entry],
) -> Result<()> {
    let figure = |contender: usize| Figure::of_whole_numbers(&contenders[contender].rounds);
    let common = entries.iter().map(|entry| {
        let of = |case: usize| {
            let (_, contender) = entry.cases.iter().find(|(at, _)| *at == case)?;
            Some(figure(*contender))
        };
        Row { name: entry.name.clone(), figures: (0..COMMON.len()).map(of).collect() }
    });
    let columns = COMMON.map(String::from).to_vec();
    let common = Table {
        title: "ns over the empty program with the same verdict".into(),
        columns,
        rows: common.collect(),
        ratios_to: None,
    };

    let paths = cases.iter().enumerate().filter_map(|(at, case)| {
        let owner = entries.iter().find(|entry| entry.cases.iter().any(|(case, _)| *case == at))?;
        let (_, contender) = owner.cases.iter().find(|(case, _)| *case == at)?;
        let name = match owner.name == DEFAULT {
            true => case.name.to_owned(),
            false => format!("{} ({})", case.name, owner.name),
        };
        Some(Row { name, figures: vec![Some(figure(*contender))] })
    });
    let paths = Table {
        title: format!("{DEFAULT}: every path, ns over the empty program with the same verdict"),
        columns: vec!["ns".into()],
        rows: paths.collect(),
        ratios_to: None,
    };

    let mut sizes = Vec::new();
    for entry in entries {
        let (xlated, jited) = bpf::size(&entry.program)?;
        let exact = |value: u32| Some(Figure::of(&[f64::from(value)]));
        let figures = vec![exact(xlated / 8), exact(jited)];
        sizes.push(Row { name: entry.name.clone(), figures });
    }
    let sizes = Table {
        title: "size in the kernel".into(),
        columns: vec!["instructions (xlated)".into(), "bytes of machine code (jited)".into()],
        rows: sizes,
        ratios_to: None,
    };
    let floors = ["drop", "redirect", "pass"].into_iter().enumerate();
    let floors = Table {
        title: "the empty programs themselves, ns".into(),
        columns: vec!["ns".into()],
        rows: floors
            .map(|(i, name)| Row { name: name.into(), figures: vec![Some(figure(i))] })
            .collect(),
        ratios_to: None,
    };

    let default =
        entries.iter().find(|entry| entry.name == DEFAULT).context("the default object")?;
    let of = |case: usize| figure(default.cases[case].1).median;
    part.promises = vec![
        Promise::at_most("drop a wrong magic, ns over the empty program", of(0), 8.0),
        Promise::at_most("steer a valid packet, ns over the empty program", of(1), 14.0),
    ];
    let title = format!("{DEFAULT}: what each verdict costs");
    part.plots
        .push(("programs.svg".into(), plot::bars(&title, "ns over the empty program", &paths)?));
    part.tables.extend([common, paths, sizes, floors]);
    Ok(())
}
