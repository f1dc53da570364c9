//! Checks that the checked-in listing of the loader's public API is current. Only Rust
//! `api::RUST_VERSION` on Linux can generate the listing. Elsewhere the test is ignored, and the
//! test's output gives the reason.

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};
use source_checks::api;
use source_checks::workspace::Workspace;

fn main() -> ExitCode {
    let unusable = api::check_machine().err().map(|error| error.to_string());
    let trial = Trial::test("public_api_matches_the_checked_in_listing", || {
        let checked = Workspace::read().and_then(|workspace| api::check(&workspace));
        checked.map_err(|error| format!("{error:#}").into())
    });
    let trial = trial.with_ignored_flag(unusable.is_some());
    let trial = trial.with_kind(unusable.unwrap_or_default());
    libtest_mimic::run(&Arguments::from_args(), vec![trial]).exit_code()
}
