//! One virtual machine, from power on to power off.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::image;
use crate::kernels::Architecture;

/// A machine that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(600);
/// Lines of the console that a failure shows.
const TAIL: usize = 30;

/// Boots and gives what the console showed; `seen` is called with each line. The
/// console's log is kept at `log`, also of a machine that had to be stopped.
pub fn boot(
    architecture: Architecture,
    kernel: &Path,
    image: &Path,
    log: &Path,
    mut seen: impl FnMut(&str),
) -> Result<String> {
    let errors = log.with_extension("qemu");
    let mut qemu = Stopped(start(architecture, kernel, image, &errors)?);
    let output = qemu.0.stdout.take().context("no console")?;
    let (sender, lines) = mpsc::channel();
    let reader = thread::spawn(move || {
        for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).trim_end().to_string();
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    let mut log = File::create(log).with_context(|| log.display().to_string())?;
    let (mut console, started) = (String::new(), Instant::now());
    let mut keep = |text: &str| -> Result<()> {
        console += text;
        Ok(log.write_all(text.as_bytes())?)
    };
    let ended = loop {
        let left = PATIENCE.saturating_sub(started.elapsed());
        // QEMU's exit code says nothing about what happened inside.
        let Ok(line) = lines.recv_timeout(left) else { break false };
        keep(&format!("{line}\n"))?;
        seen(&line);
        if line.starts_with(image::END) {
            break true;
        }
    };
    let took = started.elapsed();
    // What is still on its way: a line that never ended tells which test hangs.
    drop(qemu);
    reader.join().ok();
    for line in lines.try_iter() {
        keep(&format!("{line}\n"))?;
    }
    keep(&String::from_utf8_lossy(&fs::read(&errors)?))?;
    ensure!(
        ended,
        "{} after {} s; its console ended with:\n{}",
        if took < PATIENCE { "the machine stopped" } else { "the machine hangs: stopped" },
        took.as_secs(),
        tail(&console)
    );
    Ok(console)
}

/// The end of a console, set off.
fn tail(console: &str) -> String {
    let lines: Vec<_> = console.lines().collect();
    let last = &lines[lines.len().saturating_sub(TAIL)..];
    last.iter().map(|line| format!("  | {line}\n")).collect()
}

/// Fails if there is no emulator, before anything is fetched for it.
pub fn check_emulator(architecture: Architecture) -> Result<()> {
    let (program, ..) = emulator(architecture);
    let advice = "`ci/install-packages matrix` installs what the matrix needs";
    let answer = Command::new(program).arg("--version").output();
    let answer = answer.with_context(|| format!("{program} does not run; {advice}"))?;
    ensure!(answer.status.success(), "{program} --version: {}; {advice}", answer.status);
    Ok(())
}

/// The program, the machine that it emulates, and that machine's console.
fn emulator(architecture: Architecture) -> (&'static str, &'static str, &'static str) {
    match architecture {
        Architecture::Amd64 => ("qemu-system-x86_64", "q35", "ttyS0"),
        Architecture::S390x => ("qemu-system-s390x", "s390-ccw-virtio", "ttysclp0"),
    }
}

fn start(architecture: Architecture, kernel: &Path, image: &Path, errors: &Path) -> Result<Child> {
    let (program, machine, console) = emulator(architecture);
    // It goes when this program does, however that ends.
    let mut qemu = Command::new("setpriv");
    qemu.args(["--pdeathsig", "KILL", program]);
    // Not KVM, which is there and does not work; and one thread, because with more
    // kernels panic now and then.
    qemu.args(["-M", machine, "-cpu", "max", "-accel", "tcg,thread=single", "-m", "768"]);
    qemu.args(["-smp", "2", "-nographic", "-no-reboot", "-nodefaults", "-serial", "stdio"]);
    qemu.args([
        "-monitor",
        "none",
        "-append",
        &format!("console={console} panic=-1 oops=panic quiet"),
    ]);
    qemu.arg("-kernel").arg(kernel).arg("-initrd").arg(image);
    qemu.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(File::create(errors)?);
    qemu.spawn().with_context(|| format!("start {program}"))
}

/// A machine that stops when nobody waits for it any more.
struct Stopped(Child);

impl Drop for Stopped {
    fn drop(&mut self) {
        // It may have gone by itself.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}
