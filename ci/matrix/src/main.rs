//! `make matrix`: boots kernels under QEMU and runs the kernel tests on each.
//!
//! `run` performs these steps: `kernels` reads the list of kernels, `resolve` finds their
//! packages on the `mirror`, `obtain` downloads them, `userland` compiles the tests, `image`
//! builds the initial RAM file system, `machine` boots it, `report` reads the console, and
//! `record` writes the result to `bpf-prebuilt/executed.toml`. `claims` later compares the
//! objects' claims with that file.

mod apt;
mod check;
mod claims;
mod executed;
mod image;
mod kernels;
mod machine;
mod mirror;
mod obtain;
mod packages;
mod record;
mod release;
mod report;
mod resolve;
mod run;
mod table;
mod userland;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::kernels::KernelName;
use crate::resolve::Selection;

/// Boot kernels under QEMU and run the tests of laminar-xdp on each
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Boot kernels and run the tests on each
    Run(RunArguments),
    /// Check that every object was executed on the kernels that it claims, and that the table of
    /// kernels is current
    Claims {
        /// Write the table of kernels instead of checking
        #[arg(long)]
        write: bool,
    },
}

#[derive(clap::Args)]
struct RunArguments {
    /// Series to boot, such as 6.17 or 6.12-s390x. Default: the kernels that
    /// ci/matrix/kernels.toml lists
    kernels: Vec<KernelName>,
    /// Boot every series that the mirror has
    #[arg(long, conflicts_with = "kernels")]
    all: bool,
    /// The folder in which packages are kept between runs
    #[arg(long, env = "MATRIX_CACHE")]
    cache: Option<PathBuf>,
    /// Do not record the run in bpf-prebuilt/executed.toml
    #[arg(long)]
    no_record: bool,
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Run(RunArguments { kernels, all, cache, no_record }) => {
            let selection = match (all, kernels) {
                (true, _) => Selection::All,
                (false, names) if names.is_empty() => Selection::Default,
                (false, names) => Selection::Named(names),
            };
            run::run(&selection, cache, !no_record)
        }
        Command::Claims { write: false } => check::check().map(|()| true),
        Command::Claims { write: true } => check::write_table().map(|()| true),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
