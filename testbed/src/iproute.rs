//! Runs the `ip` tool of iproute2.

use anyhow::Result;
use xshell::{Shell, cmd};

/// Runs `ip` commands, one per line, in the network namespace of the calling thread. One
/// process runs all commands, because starting processes is slow on an emulated machine.
pub fn ip(commands: &str) -> Result<()> {
    let shell = Shell::new()?;
    Ok(cmd!(shell, "ip -batch -").stdin(commands).quiet().run()?)
}
