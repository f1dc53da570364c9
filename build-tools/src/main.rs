//! The producer of `bpf-prebuilt/`. Its steps are compile, inspect, verify and describe, each
//! in its own file.
//!
//! `bpf` brings `bpf-prebuilt/` up to date with `bpf-src/`. `check` builds the same objects
//! in a scratch folder and compares.

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
    /// Write the Rust bindings of the ABI header; the other commands are compiled with them
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
        "{} is version {}, but only clang {} builds the objects (bpf-src/targets.toml); install \
         clang-19, or compare instructions with `make check`, where CLANG= names the compiler",
        compiler.clang,
        compiler.version,
        targets.compiler
    );
    let set = ArtifactSet::build(project, targets, &compiler)?;
    set.write(project)?;
    println!("wrote {} objects and their manifest to bpf-prebuilt/", set.objects.len());
    Ok(())
}
