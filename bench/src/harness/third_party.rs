//! XDP programs of other projects, from Debian's packages.

use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use testbed::{TestNet, bpf};

/// Loads a prebuilt program of xdp-filter. The maps of the program stay empty, so its default
/// verdict applies to every packet.
pub fn xdp_filter(file: &str) -> Result<OwnedFd> {
    let found = std::fs::read_dir("/usr/lib")?
        .filter_map(|entry| Some(entry.ok()?.path().join("bpf").join(file)))
        .find(|path: &PathBuf| path.exists());
    let found = found.with_context(|| {
        format!("/usr/lib/*/bpf/{file} is missing; Debian's xdp-tools package contains it")
    })?;
    bpf::load_file(found.to_str().context("the path is not UTF-8")?)
}

/// A running `xdp-bench redirect-cpu` on its own network. Its XDP program is embedded in the binary
/// of `xdp-bench`, so the benchmark cannot load the program itself. The benchmark gets the program
/// from the kernel while `xdp-bench` runs.
pub struct RedirectCpu {
    /// The program.
    pub program: OwnedFd,
    process: Child,
    _net: TestNet,
}

impl RedirectCpu {
    /// Starts `xdp-bench redirect-cpu --program-mode <mode>`, which redirects packets to `cpu`.
    pub fn start(mode: &str, cpu: u32) -> Result<RedirectCpu> {
        let net = TestNet::new()?;
        let process = net.receiver.enter(|| {
            let arguments = ["redirect-cpu", "--program-mode", mode, "--cpu", &cpu.to_string()];
            Command::new("xdp-bench")
                .args(arguments)
                .arg(&net.interface)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()
        });
        let mut process = process.context("start xdp-bench (from Debian's xdp-tools package)")?;
        match attached_program(&net, &mut process) {
            Ok(program) => Ok(RedirectCpu { program, process, _net: net }),
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

/// Ends the process with SIGINT, so that the process can remove its pinned files. Kills the process
/// if it still runs after two seconds.
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

/// Waits until the process has attached its program. Returns the program that is attached to the
/// interface. If the process uses libxdp, this may be a dispatcher that calls the program.
fn attached_program(net: &TestNet, process: &mut Child) -> Result<OwnedFd> {
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(5) {
        if let Some(id) = net.attached_program()? {
            return bpf::program_by_id(id);
        }
        if process.try_wait()?.is_some() {
            let mut output = String::new();
            if let Some(mut stderr) = process.stderr.take() {
                stderr.read_to_string(&mut output)?;
            }
            // libbpf prints many lines. If a kernel feature is missing, the line about that feature
            // explains the failure best.
            let line = output.lines().find(|line| line.contains("failed to find"));
            let line = line.or(output.lines().last()).unwrap_or("no message").trim();
            bail!("xdp-bench ended: {line}");
        }
        sleep(Duration::from_millis(20));
    }
    bail!("xdp-bench attached no program within 5 s")
}
