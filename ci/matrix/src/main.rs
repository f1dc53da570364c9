//! `make matrix`: boots real kernels and runs the kernel tests of the crate on each.
//!
//! `kernels` says which, `packages` fetches them, `userland` compiles the tests,
//! `image` puts both together, `machine` boots it, `report` reads what came of it and
//! `record` keeps it for `claims`, by which `make check` judges what the objects promise.

mod claims;
mod executed;
mod image;
mod kernels;
mod machine;
mod packages;
mod record;
mod report;
mod userland;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

use crate::kernels::{Architecture, Kernel, Kernels};
use crate::packages::{Package, Packages};
use crate::report::{Outcome, Run};
use crate::userland::Userland;

/// Machines at a time: an emulated one keeps a core busy.
const AT_A_TIME: usize = 2;

/// Boots kernels under QEMU and runs the tests of laminar-xdp on each
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Boot kernels and run the tests on each
    Run(Which),
    /// Fail if an object claims a kernel on which it was not executed, or README.md
    /// says something else
    Claims,
}

#[derive(clap::Args)]
struct Which {
    /// Kernels of ci/matrix/kernels.toml by name; all but the special ones if none
    /// is named
    kernels: Vec<String>,
    /// Where packages are kept between runs
    #[arg(long, env = "MATRIX_CACHE")]
    cache: Option<PathBuf>,
    /// Do not record in bpf-prebuilt/executed.toml what was executed
    #[arg(long)]
    no_record: bool,
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Run(which) => run(which),
        Command::Claims => claims::check().map(|()| true),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// A kernel that is ready to boot.
struct Ready {
    kernel: Kernel,
    package: Package,
    boot: PathBuf,
    image: PathBuf,
}

fn run(arguments: Which) -> Result<bool> {
    let kernels = Kernels::read()?.choose(&arguments.kernels)?;
    let cache = arguments.cache.map_or_else(default_cache, Ok)?;
    let cache = std::path::absolute(cache)?;
    let results = PathBuf::from(std::env::var("CARGO_TARGET_DIR").unwrap_or("target".into()));
    let results = std::path::absolute(results.join("matrix"))?;
    fs::create_dir_all(&results)?;

    let _alone = alone(&cache)?;
    let manifest = record::read_manifest()?;
    kernels.architectures().into_iter().try_for_each(machine::check_emulator)?;
    eprintln!("compiling the tests");
    let mut userlands = BTreeMap::new();
    for architecture in kernels.architectures() {
        let userland = Userland::prepare(&cache, &kernels, architecture)
            .with_context(|| format!("prepare for {architecture}"))?;
        userlands.insert(architecture, userland);
    }
    let prepare = |kernel: &Kernel| {
        let userland = &userlands[&kernel.architecture];
        let packages = || Packages::new(&cache, kernel.architecture, &[&kernel.suite]);
        let known = packages()?;
        let ready = prepare(&known, &results, kernel, userland).or_else(|error| {
            // The lists may be of yesterday, and the mirror has moved on.
            eprintln!("kernel {}: {error:#}\nonce more with new lists", kernel.name());
            known.forget_lists()?;
            prepare(&packages()?, &results, kernel, userland)
        });
        ready.with_context(|| format!("kernel {}", kernel.name()))
    };
    let ready: Vec<Ready> = kernels.list.iter().map(prepare).collect::<Result<_>>()?;

    let started = Instant::now();
    let runs = boot_all(&ready, &results);
    println!("\n{}", report::table(&runs));
    let summary = results.join("matrix.json");
    fs::write(&summary, serde_json::to_string_pretty(&runs)?)?;
    let failures: Vec<_> = runs.iter().filter(|run| run.failure.is_some()).collect();
    for run in &failures {
        println!("kernel {}: {}", run.kernel, run.failure.as_deref().unwrap_or_default());
    }
    let (all, seconds) = (runs.len(), started.elapsed().as_secs());
    println!(
        "{} of {all} kernels went well, in {seconds} s; consoles, selections and matrix.json are in {}",
        all - failures.len(),
        results.display()
    );
    if failures.is_empty() && !arguments.no_record {
        record::write(&runs, &manifest)?;
        claims::write_table()?;
        println!("recorded in bpf-prebuilt/executed.toml and README.md");
    }
    Ok(failures.is_empty())
}

fn default_cache() -> Result<PathBuf> {
    let caches = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache"));
    let caches =
        caches.or_else(home).context("neither HOME nor XDG_CACHE_HOME is set; name --cache")?;
    Ok(caches.join("laminar-xdp-matrix"))
}

/// Two runs would unpack, and delete, the same folders: the second one waits.
fn alone(cache: &Path) -> Result<File> {
    fs::create_dir_all(cache).with_context(|| cache.display().to_string())?;
    let lock = File::create(cache.join("lock"))?;
    if lock.try_lock().is_err() {
        eprintln!("waiting for another run that uses {}", cache.display());
        lock.lock()?;
    }
    Ok(lock)
}

/// Fetches a kernel and builds the image that it boots into.
fn prepare(
    packages: &Packages,
    results: &Path,
    kernel: &Kernel,
    userland: &Userland,
) -> Result<Ready> {
    // Newer kernels are split into several packages.
    let parts = packages.newest(&kernel.image, &["linux-binary-", "linux-modules-"])?;
    let package = parts[0].clone();
    let (mut boot, mut veth) = (None, None);
    for part in &parts {
        let folder = packages.unpack(part, &["vmlinuz", "veth.ko"])?;
        boot = boot.or(packages::find_file(&folder, "vmlinuz")?);
        veth = veth.or(packages::find_file(&folder, "veth.ko")?);
    }
    let boot = boot.with_context(|| format!("{} has no vmlinuz", package.name))?;
    let veth = veth.with_context(|| format!("{} has no module veth", package.name))?;
    let image = results.join(format!("{}.cpio", kernel.name()));
    image::build(kernel.architecture, userland, &veth, &image)?;
    Ok(Ready { kernel: kernel.clone(), package, boot, image })
}

/// Boots all of them, so many at a time, the slowest ones first.
fn boot_all(ready: &[Ready], results: &Path) -> Vec<Run> {
    let mut order: Vec<usize> = (0..ready.len()).collect();
    order.sort_by_key(|&i| ready[i].kernel.architecture == Architecture::Amd64);
    let next = AtomicUsize::new(0);
    let done = Mutex::new(BTreeMap::new());
    thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                while let Some(&i) = order.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let run = boot(&ready[i], results);
                    done.lock().expect("no thread panics").insert(i, run);
                }
            });
        }
    });
    done.into_inner().expect("no thread panics").into_values().collect()
}

fn boot(ready: &Ready, results: &Path) -> Run {
    let Ready { kernel, package, boot, image } = ready;
    let name = kernel.name();
    let (started, mut checks) = (Instant::now(), 0);
    let log = results.join(format!("{name}.console.log"));
    let console = machine::boot(kernel.architecture, boot, image, &log, |line| {
        if report::check(line).is_some() {
            checks += 1;
            if std::io::stderr().is_terminal() {
                eprint!("\r{name}: {checks} checks  ");
                std::io::stderr().flush().ok();
            }
        }
    });
    let mut outcome = Outcome::default();
    let result = console.and_then(|console| {
        let result = report::read(&console, &mut outcome);
        result.with_context(|| format!("its console is in {}", log.display()))
    });
    fs::write(results.join(format!("{name}.selection.txt")), &outcome.words).ok();
    let seconds = started.elapsed().as_secs();
    let verdict = if result.is_ok() { "ok" } else { "FAILED" };
    eprintln!("\r{name} ({}): {checks} checks in {seconds} s, {verdict}", package.version);
    Run {
        kernel: name,
        architecture: kernel.architecture,
        package: package.name.clone(),
        version: package.version.clone(),
        seconds,
        failure: result.err().map(|error| format!("{error:#}")),
        checks: outcome.checks,
        selection: outcome.selection,
    }
}
