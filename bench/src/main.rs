//! Compares laminar-xdp with alternatives. One run measures all contenders alternately, with
//! the same packets. `docs/benchmarks.md` describes the method and its limits.
//!
//! [`parts`] contains the measurements, which return tables. The measurements use [`harness`] for
//! traffic, interfaces and threads. [`report`] prints and writes the tables, draws them and
//! compares two runs.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use clap::Parser;
use testbed::TestNet;

mod harness;
mod parts;
mod report;
mod session;

use parts::PARTS;
use report::{Machine, Report, compare, record};
use session::Session;

/// Compare the performance of laminar-xdp with alternatives. Needs root and some minutes.
#[derive(Parser)]
struct Arguments {
    /// Only check that everything runs; takes about a minute, and its figures are not usable
    #[arg(long)]
    quick: bool,
    /// Run only these parts, such as `junk,flood`
    #[arg(long, value_delimiter = ',', value_parser = PARTS.map(|part| part.0))]
    only: Vec<String>,
    /// Use two network cards instead of a veth pair. A cable has to connect them, and nothing
    /// else may use them
    #[arg(long, num_args = 2, value_names = ["RECEIVER", "SENDER"])]
    ports: Option<Vec<String>>,
    /// Compare this run with the `report.json` of an earlier run
    #[arg(long)]
    against: Option<PathBuf>,
    /// Write this run into `docs/benchmarks.md` in the current folder
    #[arg(long, conflicts_with_all = ["quick", "only"])]
    record: bool,
    /// The folder with the compiled programs of `bench/programs`
    #[arg(long)]
    programs: PathBuf,
    /// The folder for report.txt, report.json and the pictures
    #[arg(long)]
    output: PathBuf,
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

/// Takes the machine lock, shared with other benchmarks and tests. The lock is held until the
/// returned file is closed. A kernel test that needs the whole machine, for example because it
/// takes a CPU offline, holds the lock exclusively. This function waits until no test does so.
fn lock_machine() -> io::Result<File> {
    let lock = testbed::lock_file()?;
    if lock.try_lock_shared().is_err() {
        eprintln!("waiting for a kernel test that has locked the machine");
        lock.lock_shared()?;
    }
    Ok(lock)
}

/// Runs the benchmark. Returns whether this run agrees with the earlier run that `--against` names.
/// Returns true without `--against`.
fn run(arguments: Arguments) -> Result<bool> {
    if let Some(missing) = testbed::missing_privileges() {
        bail!("the benchmark {missing}, because it loads XDP programs");
    }
    let Arguments { quick, only, ports, against, record, programs, output } = arguments;
    // Hold this lock during the run, so that kernel tests wait before they take a CPU offline.
    let _lock = lock_machine().context("lock the machine")?;
    let earlier = against.as_deref().map(Report::read).transpose()?;
    let all_cpus = testbed::online_cpus();
    let [rx_cpu, other_cpu, ..] = all_cpus[..] else {
        bail!("the benchmark needs two CPUs, but the number of online CPUs is {}", all_cpus.len());
    };
    let ports = ports.map(<[String; 2]>::try_from).transpose();
    let ports = ports.ok().context("--ports takes two interfaces")?;
    let machine = Machine::detect(ports.as_ref())?;
    let nics = ports.map(|[receiver, sender]| TestNet::with_nics(&receiver, &sender));
    let nics = nics.transpose()?.map(Arc::new);
    let session = Session { quick, rx_cpu, other_cpu, all_cpus, programs, nics };

    let mut report = Report { machine, quick, parts: Vec::new() };
    for (name, measure) in PARTS {
        if only.is_empty() || only.iter().any(|only| only == name) {
            let mut part = measure(&session).with_context(|| format!("measure {name}"))?;
            if quick {
                // The figures of a quick run are too imprecise to judge whether the goals are met.
                part.goals.clear();
            }
            report.parts.push(part);
        }
    }
    println!("{report}");
    report.write(&output)?;
    println!("report.txt, report.json and pictures are in {}", output.display());
    if record {
        record::record(&report, Path::new("."))?;
    }
    let Some(earlier) = earlier else { return Ok(true) };
    let comparison = compare(&earlier, &report);
    println!("\n{comparison}");
    Ok(comparison.agrees())
}
