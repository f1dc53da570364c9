//! Builds `bpf-prebuilt/` from `bpf-src/`. The module `compile` compiles each object, `inspect`
//! reads the object's programs and maps, `verify` checks these programs and maps, and `set` writes
//! the objects and their manifest.
//!
//! The command `bpf` builds `bpf-prebuilt/` again if `bpf-src/` or another input has changed. The
//! command `check` builds the same objects in a scratch folder and compares them with
//! `bpf-prebuilt/`.

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
    /// Write the Rust bindings of the ABI header. Run this first: the other commands are compiled
    /// with the bindings
    Bindings,
    /// Compile bpf-src/ and write bpf-prebuilt/, if anything changed
    Bpf,
    /// Build into a scratch folder, and fail if the result differs from bpf-prebuilt/
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
        "{} is version {}, but the objects must be built with clang {} (bpf-src/targets.toml); \
         install clang-19. With this compiler, `make check` can only compare instructions",
        compiler.clang,
        compiler.version,
        targets.compiler
    );
    let set = ArtifactSet::build(project, targets, &compiler)?;
    set.write(project)?;
    println!("wrote {} objects and their manifest to bpf-prebuilt/", set.objects.len());
    Ok(())
}
