//! One run of the matrix.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result};
use serde_json::json;

use crate::check;
use crate::kernels::{Architecture, Kernels};
use crate::mirror::Mirror;
use crate::obtain::{Obtained, obtain};
use crate::report::{Outcome, Run};
use crate::resolve::{Gap, Kernel, Selection};
use crate::{image, machine, record, report};

/// The number of virtual machines that run at the same time. Each machine keeps one CPU of the host
/// busy, because one thread of QEMU emulates the machine.
const PARALLEL_MACHINES: usize = 2;

/// A kernel that is ready to boot.
struct Bootable {
    kernel: Kernel,
    vmlinuz: PathBuf,
    image: PathBuf,
}

/// Boots the kernels of a selection. Returns whether every check passed on every kernel.
pub fn run(selection: &Selection, cache: Option<PathBuf>, is_recorded: bool) -> Result<bool> {
    let kernels = Kernels::read()?;
    let cache = std::path::absolute(cache.map_or_else(default_cache, Ok)?)?;
    let results = PathBuf::from(std::env::var("CARGO_TARGET_DIR").unwrap_or("target".into()));
    let results = std::path::absolute(results.join("matrix"))?;
    fs::create_dir_all(&results)?;

    let _lock = lock(&cache)?;
    let manifest = record::read_manifest()?;
    wanted_architectures(&kernels, selection).try_for_each(machine::check_emulator)?;
    let obtained = obtain(&Mirror::new(&cache), &kernels, selection)?;
    let gaps = obtained.gaps.clone();
    for (kernel, _) in &obtained.kernels {
        eprintln!("kernel {}: {} from {}", kernel.name, kernel.packages[0].name, kernel.suite);
    }
    print_gaps(&gaps);
    let bootable = build(obtained, &results)?;

    let started = Instant::now();
    let runs = boot_all(&bootable, &results);
    println!("\n{}", report::table(&runs));
    let summary = json!({ "runs": runs, "gaps": gaps });
    fs::write(results.join("matrix.json"), serde_json::to_string_pretty(&summary)?)?;
    let failures: Vec<_> = runs.iter().filter(|run| run.failure.is_some()).collect();
    for run in &failures {
        println!("kernel {}: {}", run.kernel, run.failure.as_deref().unwrap_or_default());
    }
    print_gaps(&gaps);
    println!(
        "every check passed on {} of {} kernels, in {} s; consoles, selections and matrix.json are \
         in {}",
        runs.len() - failures.len(),
        runs.len(),
        started.elapsed().as_secs(),
        results.display()
    );
    if failures.is_empty() && is_recorded {
        let is_complete = !matches!(selection, Selection::Named(_));
        record::write(&runs, is_complete.then_some(&gaps), &manifest)?;
        check::write_table()?;
        println!("recorded in bpf-prebuilt/executed.toml and {}", check::TABLE.document());
    }
    Ok(failures.is_empty())
}

fn print_gaps(gaps: &[Gap]) {
    for Gap { kernel, architecture, reason } in gaps {
        println!("gap: {kernel} ({architecture}): {reason}");
    }
}

fn wanted_architectures(
    kernels: &Kernels,
    selection: &Selection,
) -> impl Iterator<Item = Architecture> {
    let mut architectures: Vec<_> = match selection {
        Selection::Named(names) => names.iter().map(|name| name.architecture).collect(),
        _ => kernels.suites().into_iter().map(|(architecture, _)| architecture).collect(),
    };
    architectures.sort();
    architectures.dedup();
    architectures.into_iter()
}

fn default_cache() -> Result<PathBuf> {
    let caches = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache"));
    let caches =
        caches.or_else(home).context("neither HOME nor XDG_CACHE_HOME is set: pass --cache")?;
    Ok(caches.join("laminar-xdp-matrix"))
}

/// Locks the cache, because concurrent runs would unpack and delete the same folders.
fn lock(cache: &Path) -> Result<File> {
    fs::create_dir_all(cache).with_context(|| cache.display().to_string())?;
    let lock = File::create(cache.join("lock"))?;
    if lock.try_lock().is_err() {
        eprintln!("waiting for another run that uses {}", cache.display());
        lock.lock()?;
    }
    Ok(lock)
}

/// Compiles the tests, and builds the image of each kernel.
fn build(obtained: Obtained, results: &Path) -> Result<Vec<Bootable>> {
    eprintln!("compiling the tests");
    let mut userlands = BTreeMap::new();
    for (architecture, packages) in obtained.userlands {
        let userland = packages.build().with_context(|| format!("build for {architecture}"))?;
        userlands.insert(architecture, userland);
    }
    let bootable = obtained.kernels.into_iter().map(|(kernel, files)| {
        let architecture = kernel.name.architecture;
        let image = results.join(format!("{}.cpio", kernel.name));
        image::build(architecture, &userlands[&architecture], &files.veth, &image)
            .with_context(|| format!("image for kernel {}", kernel.name))?;
        Ok(Bootable { kernel, vmlinuz: files.kernel, image })
    });
    bootable.collect()
}

/// Boots all kernels, [`PARALLEL_MACHINES`] at a time. Starts with the kernels for s390x, because
/// emulating s390x is slowest.
fn boot_all(kernels: &[Bootable], results: &Path) -> Vec<Run> {
    let mut order: Vec<usize> = (0..kernels.len()).collect();
    order.sort_by_key(|&i| kernels[i].kernel.name.architecture == Architecture::Amd64);
    let next = AtomicUsize::new(0);
    let done = Mutex::new(BTreeMap::new());
    thread::scope(|scope| {
        for _ in 0..PARALLEL_MACHINES {
            scope.spawn(|| {
                while let Some(&i) = order.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let run = boot(&kernels[i], results);
                    done.lock().expect("no thread panics").insert(i, run);
                }
            });
        }
    });
    done.into_inner().expect("no thread panics").into_values().collect()
}

fn boot(bootable: &Bootable, results: &Path) -> Run {
    let Bootable { kernel, vmlinuz, image } = bootable;
    let (name, package) = (kernel.name.to_string(), &kernel.packages[0]);
    let architecture = kernel.name.architecture;
    let (started, mut checks) = (Instant::now(), 0);
    let log = results.join(format!("{name}.console.log"));
    let console = machine::boot(architecture, vmlinuz, image, &log, |line| {
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
        result.with_context(|| format!("the console is in {}", log.display()))
    });
    fs::write(results.join(format!("{name}.selection.txt")), &outcome.selection_text).ok();
    let seconds = started.elapsed().as_secs();
    let verdict = if result.is_ok() { "ok" } else { "FAILED" };
    eprintln!("\r{name} ({}): {checks} checks in {seconds} s, {verdict}", package.version);
    Run {
        kernel: name,
        architecture,
        package: package.name.clone(),
        version: package.version.clone(),
        seconds,
        failure: result.err().map(|error| format!("{error:#}")),
        checks: outcome.checks,
        selection: outcome.selection,
    }
}
