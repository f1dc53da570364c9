//! Writes the checked-in listing of the loader's public API.

use std::process::ExitCode;

use anyhow::{Result, ensure};
use source_checks::api;
use source_checks::workspace::Workspace;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    ensure!(arguments == ["api"], "usage: source-checks api");
    api::write(&Workspace::read()?)?;
    println!("{}: written", api::FILE);
    Ok(())
}
