//! Boots one virtual machine and reads its console.

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

/// A virtual machine that runs longer than this is killed.
const TIMEOUT: Duration = Duration::from_secs(600);
/// The number of console lines that an error message contains.
const TAIL: usize = 30;

/// Boots a virtual machine and returns its console output. Calls `on_line` for each line. Writes
/// the console output to `log`, even if the machine hangs and is killed.
pub fn boot(
    architecture: Architecture,
    kernel: &Path,
    image: &Path,
    log: &Path,
    mut on_line: impl FnMut(&str),
) -> Result<String> {
    let errors = log.with_extension("qemu");
    let mut qemu = KillOnDrop(start(architecture, kernel, image, &errors)?);
    let output = qemu.0.stdout.take().context("QEMU has no standard output")?;
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
    let mut append = |text: &str| -> Result<()> {
        console += text;
        Ok(log.write_all(text.as_bytes())?)
    };
    let ended = loop {
        let left = TIMEOUT.saturating_sub(started.elapsed());
        // Only the end marker shows that the tests ended. QEMU's exit code does not depend on the
        // tests.
        let Ok(line) = lines.recv_timeout(left) else { break false };
        append(&format!("{line}\n"))?;
        on_line(&line);
        if line.starts_with(image::END) {
            break true;
        }
    };
    let took = started.elapsed();
    // If a test hangs, the console ends with the name of that test, without a line feed. The reader
    // thread sends such an unfinished line only after QEMU has ended.
    drop(qemu);
    reader.join().ok();
    for line in lines.try_iter() {
        append(&format!("{line}\n"))?;
    }
    append(&String::from_utf8_lossy(&fs::read(&errors)?))?;
    ensure!(
        ended,
        "{} after {} s; its console ended with:\n{}",
        if took < TIMEOUT { "the machine stopped" } else { "the machine hangs and was killed" },
        took.as_secs(),
        tail(&console)
    );
    Ok(console)
}

/// Returns the last [`TAIL`] lines of a console, indented.
fn tail(console: &str) -> String {
    let lines: Vec<_> = console.lines().collect();
    let last = &lines[lines.len().saturating_sub(TAIL)..];
    last.iter().map(|line| format!("  | {line}\n")).collect()
}

/// Fails if the emulator is not installed.
pub fn check_emulator(architecture: Architecture) -> Result<()> {
    let (program, ..) = emulator(architecture);
    let advice = "`ci/install-packages matrix` installs it";
    let version = Command::new(program).arg("--version").output();
    let version = version.with_context(|| format!("{program} does not run; {advice}"))?;
    ensure!(version.status.success(), "{program} --version: {}; {advice}", version.status);
    Ok(())
}

/// Returns the QEMU program, the machine type to emulate, and the machine's console device.
fn emulator(architecture: Architecture) -> (&'static str, &'static str, &'static str) {
    match architecture {
        Architecture::Amd64 => ("qemu-system-x86_64", "q35", "ttyS0"),
        Architecture::S390x => ("qemu-system-s390x", "s390-ccw-virtio", "ttysclp0"),
    }
}

fn start(architecture: Architecture, kernel: &Path, image: &Path, errors: &Path) -> Result<Child> {
    let (program, machine, console) = emulator(architecture);
    // `--pdeathsig` lets the host's kernel kill QEMU when this process ends for any reason.
    let mut qemu = Command::new("setpriv");
    qemu.args(["--pdeathsig", "KILL", program]);
    // The CI machines have /dev/kvm, but these kernels do not run under KVM there. QEMU therefore
    // emulates the CPUs (TCG). With more than one TCG thread, the kernels occasionally panic.
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

/// A process that is killed when this value is dropped.
struct KillOnDrop(Child);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        // `kill` fails if the process has already ended. The failure is no error here.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}
