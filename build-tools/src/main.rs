//! The producer: compile -> inspect -> verify -> describe, a file a step.
//!
//! `bpf` brings `bpf-prebuilt/` up to date with `bpf-src/`; `check` builds the
//! same into a scratch folder and compares.

mod bindings;
mod check;
mod compile;
mod digest;
mod inspect;
mod maps;
mod project;
mod set;
mod targets;
mod verify;

use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::{Parser, Subcommand};

use crate::compile::Compiler;
use crate::project::Project;
use crate::set::ArtifactSet;
use crate::targets::Targets;

#[derive(Parser)]
#[command(about = "Builds and checks the prebuilt XDP objects")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Write the Rust side of the ABI header, which the other steps are built with
    Bindings,
    /// Compile what changed in bpf-src/ and write bpf-prebuilt/
    Bpf,
    /// Rebuild into a scratch folder and fail on any difference to bpf-prebuilt/
    Check,
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<()> {
    let project = Project::find()?;
    let targets = Targets::read(&project)?;
    match arguments.command {
        Command::Bindings => bindings::write_abi(&project),
        Command::Bpf => bpf(&project, &targets),
        Command::Check => check::check(&project, &targets),
    }
}

fn bpf(project: &Project, targets: &Targets) -> Result<()> {
    if digest::is_current(project)? {
        println!("bpf-prebuilt/ is up to date with bpf-src/: nothing compiled");
        return Ok(());
    }
    let compiler = Compiler::find(project)?;
    ensure!(
        compiler.version == targets.compiler,
        "{} is version {}, but the objects are built with clang {} only (bpf-src/targets.toml); \
         install clang-19, or name another with CLANG= and `make check` to compare instructions",
        compiler.clang,
        compiler.version,
        targets.compiler
    );
    let set = ArtifactSet::build(project, targets, &compiler)?;
    set.write(project)?;
    println!("wrote {} objects and their manifest to bpf-prebuilt/", set.objects.len());
    Ok(())
}
