//! The crate against the running kernel: real programs, real packets, real
//! counters. As root every test runs; without root each is named as ignored,
//! with the reason.

mod artifacts;
mod bad_input;
mod lifecycle;
mod selection;
mod steering;
mod support;
mod traffic;
mod verdicts;

use std::fs::File;
use std::io;
use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};

fn main() -> ExitCode {
    // The tests of kill -9 start this program again as the one to be killed.
    if std::env::args().nth(1).as_deref() == Some(lifecycle::HOLD) {
        lifecycle::hold();
    }
    let arguments = Arguments::from_args();
    let missing = testbed::missing_rights();
    let tests = [
        verdicts::TESTS,
        traffic::TESTS,
        steering::TESTS,
        lifecycle::TESTS,
        artifacts::TESTS,
        selection::TESTS,
        bad_input::TESTS,
    ];
    let shared = tests
        .into_iter()
        .flatten()
        .map(|&(name, test)| Trial::test(name, move || run(test, File::lock_shared)));
    let alone = bad_input::ALONE
        .iter()
        .map(|&(name, test)| Trial::test(name, move || run(test, File::lock)));
    let trials = shared.chain(alone).map(|trial| {
        trial.with_ignored_flag(missing.is_some()).with_kind(missing.unwrap_or_default())
    });
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}

fn run(
    test: fn() -> anyhow::Result<()>,
    lock: fn(&File) -> io::Result<()>,
) -> Result<(), libtest_mimic::Failed> {
    let machine = support::machine()?;
    lock(&machine)?;
    test().map_err(|error| format!("{error:?}").into())
}
