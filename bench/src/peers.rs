//! Other people's programs, as Debian ships them.

use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use testbed::{TestNet, bpf};

/// A prebuilt program of xdp-filter, whose maps allow and deny nothing.
pub fn xdp_filter(file: &str) -> Result<OwnedFd> {
    let found = std::fs::read_dir("/usr/lib")?
        .filter_map(|entry| Some(entry.ok()?.path().join("bpf").join(file)))
        .find(|path: &PathBuf| path.exists());
    let found = found.with_context(|| format!("no {file}; Debian's xdp-tools has it"))?;
    bpf::load_file(found.to_str().context("its path")?)
}

/// xdp-bench while it redirects to a CPU on a wire of its own: its program is in its
/// binary and is had from the kernel.
pub struct RedirectCpu {
    /// The program.
    pub program: OwnedFd,
    process: Child,
    _wire: TestNet,
}

impl RedirectCpu {
    /// Starts it in one of its modes.
    pub fn start(mode: &str, cpu: u32) -> Result<RedirectCpu> {
        let wire = TestNet::new()?;
        let process = wire.receiver.enter(|| {
            let arguments = ["redirect-cpu", "--program-mode", mode, "--cpu", &cpu.to_string()];
            Command::new("xdp-bench")
                .args(arguments)
                .arg(&wire.interface)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()
        });
        let mut process = process.context("xdp-bench; Debian's xdp-tools has it")?;
        match attached(&wire, &mut process) {
            Ok(program) => Ok(RedirectCpu { program, process, _wire: wire }),
            Err(error) => {
                end(&mut process);
                Err(error)
            }
        }
    }
}

impl Drop for RedirectCpu {
    fn drop(&mut self) {
        end(&mut self.process);
    }
}

/// Asks it to end, so that it takes away what it pinned, and insists after a while.
fn end(process: &mut Child) {
    Command::new("kill").args(["-INT", &process.id().to_string()]).status().ok();
    for _ in 0..100 {
        if !matches!(process.try_wait(), Ok(None)) {
            return;
        }
        sleep(Duration::from_millis(20));
    }
    process.kill().ok();
    process.wait().ok();
}

/// Waits for the process to attach its program. libxdp puts a dispatcher in front where it
/// can; then the answer is that.
fn attached(wire: &TestNet, process: &mut Child) -> Result<OwnedFd> {
    let patience = Instant::now();
    while patience.elapsed() < Duration::from_secs(5) {
        if let Some(id) = wire.attached_program()? {
            return bpf::program_by_id(id);
        }
        if process.try_wait()?.is_some() {
            let mut said = String::new();
            if let Some(mut from) = process.stderr.take() {
                from.read_to_string(&mut said)?;
            }
            // libbpf says much; what was missing in the kernel explains the most.
            let line = said.lines().find(|line| line.contains("failed to find"));
            let line = line.or(said.lines().last()).unwrap_or("without a word").trim();
            bail!("xdp-bench ended: {line}");
        }
        sleep(Duration::from_millis(20));
    }
    bail!("xdp-bench attached nothing within 5 s")
}
