//! Measures how many nanoseconds each verdict costs in addition to the cost of an empty program.
//!
//! The kernel's test run (`BPF_PROG_TEST_RUN`) runs all programs on the same frames, each program
//! once per round. In each round, the time of the empty program with the same verdict is subtracted
//! from the time of the program. A disturbance of the machine affects both times, so the
//! subtraction removes most of it. The kernel returns whole nanoseconds, so a median would be too
//! coarse. A figure is therefore the mean of the middle half of the rounds.

use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use anyhow::{Context, Result, ensure};
use laminar_xdp::{XdpConfigBuilder, XdpLoader};
use testbed::bpf::{XDP_DROP, XDP_PASS, XDP_REDIRECT};
use testbed::{TestNet, bpf};

use crate::harness::third_party::{self, RedirectCpu};
use crate::parts::program_cases::{COMMON, Case, DEFAULT, cases, config, features, targets};
use crate::report::{Figure, Goal, Part, Row, Table, plot};
use crate::session::Session;

/// The measurement of one program in one case.
struct Measurement {
    name: String,
    program: Rc<OwnedFd>,
    frame: Vec<u8>,
    verdict: u32,
    rounds: Vec<f64>,
}

/// A program with all its measurements.
struct Entry {
    name: String,
    program: Rc<OwnedFd>,
    /// For each case: the index of the case, and the index of this program's measurement in that
    /// case.
    cases: Vec<(usize, usize)>,
}

/// Everything that is measured. The first three measurements are of the empty programs.
struct Programs {
    cases: Vec<Case>,
    measurements: Vec<Measurement>,
    entries: Vec<Entry>,
}

/// Measures every available program.
pub fn measure(session: &Session) -> Result<Part> {
    let mut part = Part::new("programs", "The programs alone");
    let mut programs = Programs::new()?;
    let cpus = [session.rx_cpu, session.other_cpu];

    let without_features = programs.cases.iter().filter(|case| !case.needs_feature());
    let without_features: Vec<_> = without_features.map(|case| (case.name, None)).collect();
    let common = COMMON.map(|name| (name, None));
    let mut loaders = Vec::new();
    for target in targets()? {
        let (net, loader) = load(config(&target), &cpus)?;
        let cases = if target == DEFAULT { &without_features[..] } else { &common };
        programs.add(&target, bpf::program_by_id(loader.program_id()?)?, cases);
        loaders.push((net, loader));
    }
    for (name, config, cases) in features()? {
        let (net, loader) = load(config, &cpus)?;
        let cases: Vec<_> = cases.into_iter().map(|name| (name, None)).collect();
        programs.add(name, bpf::program_by_id(loader.program_id()?)?, &cases);
        loaders.push((net, loader));
    }

    let minimal = bpf::load_file(&session.program("minimal")?)?;
    programs.add("minimal filter: UDP, port, drop", minimal, &[common[0], common[2]]);
    for (name, file, verdict) in [
        ("xdp-filter, deny UDP", "xdpfilt_dny_udp.o", XDP_DROP),
        ("xdp-filter, allow UDP", "xdpfilt_alw_udp.o", XDP_PASS),
    ] {
        match third_party::xdp_filter(file) {
            Ok(program) => programs.add(name, program, &[(COMMON[0], Some(verdict))]),
            Err(error) => part.left_out.push(format!("{name}: {error:#}")),
        }
    }
    let mut processes = Vec::new();
    for mode in ["no-touch", "l4-hash"] {
        let name = format!("xdp-bench redirect-cpu, {mode}");
        match RedirectCpu::start(mode, session.rx_cpu) {
            Ok(process) => {
                let program = process.program.as_fd().try_clone_to_owned()?;
                programs.add(&name, program, &common[1..2]);
                processes.push(process);
            }
            Err(error) => part.left_out.push(format!("{name}: {error:#}")),
        }
    }

    programs.run(session)?;
    programs.report(&mut part)?;
    Ok(part)
}

/// Loads laminar-xdp on a new network.
fn load(config: XdpConfigBuilder, cpus: &[u32]) -> Result<(TestNet, XdpLoader)> {
    let (net, config) = (TestNet::new()?, config.build()?);
    let loader = net.receiver.enter(|| XdpLoader::load_and_attach(&config, cpus))?;
    Ok((net, loader))
}

/// Returns the index of the measurement of the empty program with this verdict.
fn baseline(verdict: u32) -> usize {
    match verdict {
        XDP_DROP => 0,
        XDP_REDIRECT => 1,
        _ => 2,
    }
}

impl Programs {
    /// Creates the list. The empty programs are at the indexes that [`baseline`] returns.
    fn new() -> Result<Programs> {
        let cases = cases();
        let (redirect, _queue) = bpf::empty_redirect()?;
        let drop = bpf::empty_program(c"drop", XDP_DROP)?;
        let pass = bpf::empty_program(c"pass", XDP_PASS)?;
        let empty =
            [drop, redirect, pass].into_iter().zip(&cases).map(|(program, case)| Measurement {
                name: format!("an empty program, {}", case.name),
                program: Rc::new(program),
                frame: case.frame.clone(),
                verdict: case.verdict,
                rounds: Vec::new(),
            });
        let measurements = empty.collect();
        Ok(Programs { cases, measurements, entries: Vec::new() })
    }

    /// Adds the measurements of a program in the named cases. `Some(verdict)` replaces the expected
    /// verdict of a case, because a program of another project may return a different verdict.
    fn add(&mut self, name: &str, program: OwnedFd, cases: &[(&str, Option<u32>)]) {
        let program = Rc::new(program);
        let mut entry = Entry { name: name.into(), program: program.clone(), cases: Vec::new() };
        for (case_name, verdict) in cases {
            let at = self.cases.iter().position(|case| case.name == *case_name);
            let at = at.expect("the name of a case");
            let case = &self.cases[at];
            entry.cases.push((at, self.measurements.len()));
            self.measurements.push(Measurement {
                name: format!("{name}, {case_name}"),
                program: program.clone(),
                frame: case.frame.clone(),
                verdict: verdict.unwrap_or(case.verdict),
                rounds: Vec::new(),
            });
        }
        self.entries.push(entry);
    }

    fn run(&mut self, session: &Session) -> Result<()> {
        let (rounds, repeat) = session.choose((5, 10_000), (175, 100_000));
        for Measurement { name, program, frame, verdict, .. } in &self.measurements {
            // `run` runs the program twice and returns the second verdict. In the case with a burst
            // of one packet, only the second packet exceeds the limit.
            let found = bpf::run(program, frame, 2)?.verdict;
            ensure!(found == *verdict, "{name}: the verdict is {found} instead of {verdict}");
        }
        for round in 0..rounds {
            if round % 25 == 0 {
                session.progress(format_args!("programs: round {} of {rounds}", round + 1));
            }
            let mut times = Vec::with_capacity(self.measurements.len());
            for Measurement { program, frame, .. } in &self.measurements {
                times.push(f64::from(bpf::run(program, frame, repeat)?.nanoseconds));
            }
            for (i, measurement) in self.measurements.iter_mut().enumerate() {
                let empty = baseline(measurement.verdict);
                let cost = if i == empty { times[i] } else { times[i] - times[empty] };
                measurement.rounds.push(cost);
            }
        }
        Ok(())
    }

    fn figure(&self, measurement: usize) -> Option<Figure> {
        Figure::of_whole_numbers(&self.measurements[measurement].rounds)
    }

    fn report(&self, part: &mut Part) -> Result<()> {
        let paths = self.paths();
        let default = self.entries.iter().find(|entry| entry.name == DEFAULT);
        let default = default.context("the default object is missing")?;
        let median = |case: usize| Some(self.figure(default.cases[case].1)?.median);
        part.goals.extend(median(0).map(|ns| {
            Goal::at_most("drop a wrong magic, ns more than the empty program", ns, 8.0)
        }));
        part.goals.extend(median(1).map(|ns| {
            Goal::at_most("steer a valid packet, ns more than the empty program", ns, 14.0)
        }));
        let title = format!("{DEFAULT}: the cost of each verdict");
        let plot = plot::bars(&title, "ns more than the empty program", &paths)?;
        part.plots.push(("programs.svg".into(), plot));
        part.tables.extend([self.common(), paths, self.sizes()?, self.empty_programs()]);
        Ok(())
    }

    /// Returns the table of all programs in the common cases.
    fn common(&self) -> Table {
        let row = |entry: &Entry| {
            let figure = |case: usize| {
                let (_, measurement) = entry.cases.iter().find(|(at, _)| *at == case)?;
                self.figure(*measurement)
            };
            Row { name: entry.name.clone(), figures: (0..COMMON.len()).map(figure).collect() }
        };
        Table {
            title: "ns more than the empty program with the same verdict".into(),
            columns: COMMON.map(String::from).to_vec(),
            rows: self.entries.iter().map(row).collect(),
            ratios_to: None,
        }
    }

    /// Returns the table of all cases. If a case needs a feature that is off by default, its row
    /// shows the configuration with that feature.
    fn paths(&self) -> Table {
        let row = |(at, case): (usize, &Case)| {
            let mut entries = self.entries.iter();
            let entry = entries.find(|entry| entry.cases.iter().any(|(case, _)| *case == at))?;
            let (_, measurement) = entry.cases.iter().find(|(case, _)| *case == at)?;
            let name = match entry.name == DEFAULT {
                true => case.name.to_owned(),
                false => format!("{} ({})", case.name, entry.name),
            };
            Some(Row { name, figures: vec![self.figure(*measurement)] })
        };
        Table {
            title: format!(
                "{DEFAULT}: every path, ns more than the empty program with the same verdict"
            ),
            columns: vec!["ns".into()],
            rows: self.cases.iter().enumerate().filter_map(row).collect(),
            ratios_to: None,
        }
    }

    fn sizes(&self) -> Result<Table> {
        let mut rows = Vec::new();
        for entry in &self.entries {
            let (xlated, jited) = bpf::size(&entry.program)?;
            let exact = |value: u32| Figure::of(&[f64::from(value)]);
            // An instruction of eBPF has 8 bytes.
            let figures = vec![exact(xlated / 8), exact(jited)];
            rows.push(Row { name: entry.name.clone(), figures });
        }
        Ok(Table {
            title: "size in the kernel".into(),
            columns: vec!["instructions (xlated)".into(), "bytes of machine code (jited)".into()],
            rows,
            ratios_to: None,
        })
    }

    fn empty_programs(&self) -> Table {
        let names = ["drop", "redirect", "pass"].into_iter().enumerate();
        let row =
            |(i, name): (usize, &str)| Row { name: name.into(), figures: vec![self.figure(i)] };
        Table {
            title: "the empty programs, ns".into(),
            columns: vec!["ns".into()],
            rows: names.map(row).collect(),
            ratios_to: None,
        }
    }
}
