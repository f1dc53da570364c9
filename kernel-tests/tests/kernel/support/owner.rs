//! Child processes that own ingest.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, ensure};
use testbed::TestNet;

use super::arrivals::Arrivals;
use super::child::OWN;

/// A process that owns ingest. Dropping it kills the process.
pub struct Owner {
    pub process: Child,
    output: BufReader<ChildStdout>,
    socket: PathBuf,
}

impl Owner {
    /// Starts an owner in the receiver's namespace and waits until the owner receives. `way` is the
    /// name of an [`OwnerWay`](super::OwnerWay), and `folder` is where owners create their sockets.
    /// If there is a predecessor, the new process takes over from it.
    pub fn start(
        net: &TestNet,
        way: &str,
        arrivals: &Arrivals,
        folder: &Path,
        predecessor: Option<&Owner>,
    ) -> Result<Owner> {
        let number = std::fs::read_dir(folder)?.count();
        let socket = folder.join(number.to_string());
        let mut process = net.receiver.enter(|| -> Result<Child> {
            let mut command = Command::new(std::env::current_exe()?);
            command.args([OWN, way]).arg(arrivals.path()).arg(&socket);
            command.args(predecessor.map(|predecessor| &predecessor.socket));
            Ok(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?)
        })?;
        let output = BufReader::new(process.stdout.take().context("no output")?);
        let mut owner = Owner { process, output, socket };
        let line = owner.read_line()?;
        ensure!(line.starts_with("started"), "{way}: {line:?}");
        Ok(owner)
    }

    fn read_line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        Ok(line.trim().into())
    }

    /// Asks the process to end and waits until it has ended. Returns the last line that the process
    /// printed before the line `done`. Fails if the process fails.
    pub fn end(mut self) -> Result<String> {
        drop(self.process.stdin.take());
        let (mut last, mut line) = (String::new(), self.read_line()?);
        while line != "done" {
            ensure!(!line.is_empty(), "the owner ended too early; its last output is {last:?}");
            last = line;
            line = self.read_line()?;
        }
        ensure!(self.process.wait()?.success());
        Ok(last)
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}
