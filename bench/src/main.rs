//! Measures laminar-xdp against what else there is, every contender in the same run, on
//! the same packets, in turn. `BENCHMARKS.md` says how, and what that can tell.
//!
//! `programs` measures the programs alone and `junk`, `flood`, `steering` and `scaling`
//! send packets; `loading` starts and stops. A part gives its tables to `report`, which
//! prints and writes them, with pictures by `plot`; `comparison` holds two runs against
//! each other.

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use testbed::TestNet;

mod application;
mod comparison;
mod contenders;
mod figures;
mod flood;
mod generator;
mod junk;
mod loading;
mod machine;
mod peers;
mod plot;
mod programs;
mod receiving;
mod record;
mod report;
mod scaling;
mod standing;
mod steering;
mod threads;

use machine::Machine;
use report::{Part, Report};

/// Measure laminar-xdp against what else there is. Takes root, and some minutes.
#[derive(Parser)]
struct Arguments {
    /// Only show that everything runs, in less than a minute
    #[arg(long)]
    quick: bool,
    /// Only these parts, such as `junk,flood`; all of them if there are none
    #[arg(long, value_delimiter = ',', value_parser = PARTS.map(|part| part.0))]
    only: Vec<String>,
    /// Two network cards that nobody uses, with a cable between them, in place of a veth
    /// pair: who receives, who sends
    #[arg(long, num_args = 2, value_names = ["RECEIVER", "SENDER"])]
    ports: Option<Vec<String>>,
    /// Compare with the `report.json` of an earlier run
    #[arg(long)]
    against: Option<PathBuf>,
    /// Show this run in BENCHMARKS.md of the folder that this runs in
    #[arg(long, conflicts_with_all = ["quick", "only"])]
    record: bool,
    /// Where the compiled programs of `bench/programs` are
    #[arg(long)]
    programs: PathBuf,
    /// Where report.txt, report.json and the pictures go
    #[arg(long)]
    output: PathBuf,
}

type Measure = fn(&Bench) -> Result<Part>;

/// The parts, in the order in which they run.
const PARTS: [(&str, Measure); 6] = [
    ("programs", programs::measure),
    ("junk", junk::measure),
    ("flood", flood::measure),
    ("steering", steering::measure),
    ("loading", loading::measure),
    ("scaling", scaling::measure),
];

/// What the parts share.
pub struct Bench {
    /// Whether this is the quick form.
    pub quick: bool,
    /// The CPU that receives, and another.
    pub cpus: (u32, u32),
    /// All that are online.
    pub all_cpus: Vec<u32>,
    programs: PathBuf,
    /// The ports, if they are to be used.
    cable: Option<Arc<TestNet>>,
}

impl Bench {
    /// The one for the quick form, or the other.
    pub fn choose<T>(&self, quick: T, full: T) -> T {
        if self.quick { quick } else { full }
    }

    /// Says what is being done.
    pub fn progress(&self, what: impl Display) {
        eprintln!("{what}");
    }

    /// So many milliseconds in which something is counted: with cards longer, as their
    /// drivers tell only every second how many packets they took.
    pub fn window(&self, milliseconds: u64) -> Duration {
        Duration::from_millis(if self.cable.is_some() { 4000 } else { milliseconds })
    }

    /// A wire to send on: a new one, or the ports.
    pub fn wire(&self) -> Result<Arc<TestNet>> {
        match &self.cable {
            Some(wire) => Ok(wire.clone()),
            None => TestNet::new().map(Arc::new),
        }
    }

    /// Whether frames go to a network card, which sends what is redirected to it only while
    /// it has a program itself.
    pub fn has_cards(&self) -> bool {
        self.cable.is_some()
    }

    /// Contenders by number, in another order each round: what one leaves behind for a
    /// moment does not always meet the same one.
    pub fn turns(&self, round: usize, contenders: usize) -> impl Iterator<Item = usize> {
        (0..contenders).map(move |i| (i + round) % contenders)
    }

    /// The path of a compiled program.
    pub fn program(&self, name: &str) -> Result<String> {
        let path = self.programs.join(name).with_extension("o");
        ensure!(path.exists(), "{} is missing; `make bench` compiles it", path.display());
        Ok(path.to_str().context("a path that is no text")?.into())
    }
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether the runs that were to be compared agree; true if there is one only.
fn run(arguments: Arguments) -> Result<bool> {
    if let Some(missing) = testbed::missing_privileges() {
        anyhow::bail!("measuring {missing}, to load XDP programs");
    }
    let earlier = arguments.against.as_deref().map(Report::read).transpose()?;
    let cpus = testbed::online_cpus();
    let [cpu, other, ..] = cpus[..] else {
        anyhow::bail!("one CPU receives and another sends, but only {} is online", cpus.len());
    };
    let ports = arguments.ports.map(<[String; 2]>::try_from).transpose();
    let ports = ports.ok().context("--ports takes two interfaces")?;
    let machine = Machine::this(ports.as_ref())?;
    let cable = ports.map(|[receiver, sender]| TestNet::with_nics(&receiver, &sender)).transpose()?;
    let Arguments { quick, programs, .. } = arguments;
    let cable = cable.map(Arc::new);
    let bench = Bench { quick, cpus: (cpu, other), all_cpus: cpus, programs, cable };

    let mut report = Report { machine, quick, parts: Vec::new() };
    for (name, measure) in PARTS {
        if arguments.only.is_empty() || arguments.only.iter().any(|only| only == name) {
            let mut part = measure(&bench).with_context(|| format!("measure {name}"))?;
            if quick {
                part.promises.clear(); // not by these figures
            }
            report.parts.push(part);
        }
    }
    println!("{report}");
    report.write(&arguments.output)?;
    println!("report.txt, report.json and pictures are in {}", arguments.output.display());
    if arguments.record {
        record::record(&report, Path::new("."))?;
    }
    let Some(earlier) = earlier else { return Ok(true) };
    let comparison = comparison::compare(&earlier, &report);
    println!("\n{comparison}");
    Ok(comparison.agrees())
}
