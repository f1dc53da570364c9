//! The crate against the running kernel: real programs, real packets, real
//! counters. As root every test runs; without root each is named as ignored,
//! with the reason.

mod artifacts;
mod bad_input;
mod ingest;
mod lifecycle;
mod model;
mod moving;
mod outages;
mod ports;
mod receiving;
mod samples;
mod selection;
mod sources;
mod steering;
mod stream;
mod succession;
mod support;
mod traffic;
mod trouble;
mod verdicts;
mod verifier;

#[path = "../../../loader/examples/thread_per_core/runtime.rs"]
mod runtime;

use std::fs::File;
use std::io;
use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};

fn main() -> ExitCode {
    // The tests of kill -9 start this program again as the one to be killed.
    if std::env::args().nth(1).as_deref() == Some(lifecycle::HOLD) {
        lifecycle::hold();
    }
    let given: Vec<_> = std::env::args().skip(1).collect();
    if let Some((succession::OWN, rest)) = given.split_first().map(|(own, rest)| (&**own, rest)) {
        return match succession::own(rest) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{error:?}");
                ExitCode::FAILURE
            }
        };
    }
    support::heed_warnings();
    let arguments = Arguments::from_args();
    let missing = testbed::missing_privileges();
    let tests = [
        verdicts::TESTS,
        model::TESTS,
        traffic::TESTS,
        steering::TESTS,
        ports::TESTS,
        sources::TESTS,
        samples::TESTS,
        verifier::TESTS,
        ingest::TESTS,
        succession::TESTS,
        moving::TESTS,
        receiving::TESTS,
        outages::TESTS,
        trouble::TESTS,
        lifecycle::TESTS,
        artifacts::TESTS,
        selection::TESTS,
        bad_input::TESTS,
    ];
    let shared = tests
        .into_iter()
        .flatten()
        .map(|&(name, test)| Trial::test(name, move || run(test, File::lock_shared)));
    let alone = [bad_input::ALONE, outages::ALONE, moving::ALONE]
        .into_iter()
        .flatten()
        .map(|&(name, test)| Trial::test(name, move || run(test, File::lock)));
    let trials = shared.chain(alone).map(|trial| {
        trial.with_ignored_flag(missing.is_some()).with_kind(missing.unwrap_or_default())
    });
    let conclusion = libtest_mimic::run(&arguments, trials.collect());
    support::notes().iter().for_each(|note| println!("{note}"));
    conclusion.exit_code()
}

fn run(
    test: fn() -> anyhow::Result<()>,
    lock: fn(&File) -> io::Result<()>,
) -> Result<(), libtest_mimic::Failed> {
    let machine = support::machine()?;
    lock(&machine)?;
    test().map_err(|error| format!("{error:?}").into())
}
