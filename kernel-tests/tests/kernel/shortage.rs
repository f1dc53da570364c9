//! Signals and shortages that make system calls fail.

use std::process::Command;

use anyhow::{Result, ensure};
use testbed::TestNet;

use crate::support::{LOAD_WITH_FEW_DESCRIPTORS, OPEN_UNDER_SIGNALS, tests};

tests! {
    Root:
        frequent_signals_do_not_keep_xdp_away,
        few_descriptors_are_named_as_the_reason;
}

/// Runs this program as a child process in the receiving namespace. Returns the lines that it
/// prints.
fn lines_of(role: &str) -> Result<Vec<String>> {
    let net = TestNet::new()?;
    let output =
        net.receiver.enter(|| Command::new(std::env::current_exe()?).arg(role).output())?;
    let text = String::from_utf8(output.stdout)?;
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "{text}{error}");
    Ok(text.lines().map(String::from).collect())
}

/// The kernel ends the verification of a program with EAGAIN when a signal is pending.
fn frequent_signals_do_not_keep_xdp_away() -> Result<()> {
    let modes = lines_of(OPEN_UNDER_SIGNALS)?;
    ensure!(modes.len() == 10, "{modes:?}");
    for mode in modes {
        ensure!(mode.starts_with("XDP in "), "{mode}");
    }
    Ok(())
}

/// With too few descriptors, loading must fail because of that, and must not blame the files.
fn few_descriptors_are_named_as_the_reason() -> Result<()> {
    let lines = lines_of(LOAD_WITH_FEW_DESCRIPTORS)?;
    let [errors @ .., last] = &lines[..] else { anyhow::bail!("no output") };
    ensure!(last == "loaded" && !errors.is_empty(), "{lines:?}");
    ensure!(errors.iter().any(|error| error.contains("ulimit -n")), "{errors:?}");
    for error in errors {
        ensure!(error.contains("Too many open files"), "{error}");
        ensure!(!error.contains("damaged") && !error.contains("reinstall"), "{error}");
    }
    Ok(())
}
