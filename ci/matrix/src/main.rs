//! `make matrix`: boots kernels under QEMU and runs the kernel tests on each.
//!
//! `kernels` reads which kernels are wanted, `resolve` finds them on the `mirror`,
//! `userland` compiles the tests, `image` builds what a kernel boots into, `machine` boots
//! it, and `report` reads the console. `run` goes through these steps. `record` keeps the
//! result in a file, with which `claims` compares what the objects promise.

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

/// Boots kernels under QEMU and runs the tests of laminar-xdp on each
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Boot kernels and run the tests on each
    Run(RunArguments),
    /// Fail if an object claims a kernel on which it was not executed, or if the table of
    /// kernels is outdated
    Claims {
        /// Write the table of kernels
        #[arg(long)]
        write: bool,
    },
}

#[derive(clap::Args)]
struct RunArguments {
    /// Series to boot, such as 6.17 or 6.12-s390x. Default: what ci/matrix/kernels.toml
    /// asks for
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
