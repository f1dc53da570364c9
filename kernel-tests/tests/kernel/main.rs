//! Tests of laminar-xdp on the running kernel: real programs, real packets, real counters. As root,
//! all tests run. Without root, the tests run in a user namespace, and the tests that must load BPF
//! programs are listed as ignored, with the reason.

mod artifacts;
mod attach_mode;
mod attachment;
mod bad_input;
mod delivery;
mod fallback;
mod handover;
mod handover_errors;
mod migration;
mod migration_errors;
mod model;
mod netlink;
mod opening;
mod outages;
mod overload;
mod ports;
mod receiver;
mod receiving;
mod samples;
mod selection;
mod shortage;
mod sources;
mod steering;
mod support;
mod tokio_receiver;
mod traffic;
mod verdicts;
mod verifier;

#[path = "../../../loader/examples/thread_per_core/runtime.rs"]
mod runtime;
#[path = "../../../loader/examples/tokio_receiver/tasks.rs"]
mod tokio_tasks;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};

use support::{Needs, Privileges, Test};

fn main() -> ExitCode {
    if let Some(exit_code) = support::run_as_child() {
        return exit_code;
    }
    support::enable_warnings();
    let arguments = Arguments::from_args();
    let privileges = support::acquire_privileges();
    let tests = [
        verdicts::TESTS,
        model::TESTS,
        traffic::TESTS,
        steering::TESTS,
        ports::TESTS,
        sources::TESTS,
        samples::TESTS,
        verifier::TESTS,
        delivery::TESTS,
        receiving::TESTS,
        receiver::TESTS,
        tokio_receiver::TESTS,
        migration::TESTS,
        migration_errors::TESTS,
        handover::TESTS,
        handover_errors::TESTS,
        outages::TESTS,
        overload::TESTS,
        fallback::TESTS,
        opening::TESTS,
        attachment::TESTS,
        attach_mode::TESTS,
        netlink::TESTS,
        artifacts::TESTS,
        selection::TESTS,
        shortage::TESTS,
        bad_input::TESTS,
    ];
    let (last, first): (Vec<Test>, Vec<Test>) =
        tests.into_iter().flatten().partition(|test| test.needs == Needs::WholeMachine);
    let trials = first.into_iter().chain(last).map(|test| {
        let reason = reason_to_ignore(test.needs, privileges);
        Trial::test(test.name, move || run(test))
            .with_ignored_flag(reason.is_some())
            .with_kind(reason.unwrap_or_default())
    });
    let conclusion = libtest_mimic::run(&arguments, trials.collect());
    if *privileges == Privileges::UserNamespace {
        println!(
            "without root, the tests that cover several delivery ways used only classic BPF\n"
        );
    }
    support::take_notes().iter().for_each(|note| println!("{note}"));
    conclusion.exit_code()
}

fn reason_to_ignore(needs: Needs, privileges: &Privileges) -> Option<&str> {
    match (privileges, needs) {
        (Privileges::Root, _) | (Privileges::UserNamespace, Needs::Namespaces) => None,
        (_, Needs::Root | Needs::WholeMachine) => Some("needs root"),
        (Privileges::Neither(reason), Needs::Namespaces) => Some(reason),
    }
}

fn run(test: Test) -> Result<(), Failed> {
    let lock = testbed::lock_file()?;
    match test.needs {
        Needs::WholeMachine => lock.lock()?,
        Needs::Namespaces | Needs::Root => lock.lock_shared()?,
    }
    (test.run)().map_err(|error| format!("{error:?}").into())
}
