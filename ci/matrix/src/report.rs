//! Reads the result of each kernel from its console, and shows all results as a table.

use std::collections::BTreeMap;
use std::fmt::Write;

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::Value;

use crate::image;
use crate::kernels::Architecture;

/// The result of the tests on one kernel.
#[derive(Serialize)]
pub struct Run {
    /// The matrix's name for the kernel.
    pub kernel: String,
    pub architecture: Architecture,
    pub package: String,
    pub version: String,
    pub seconds: u64,
    /// Why the run failed. `None` if every check passed.
    pub failure: Option<String>,
    /// Whether each check passed, by the name of the check.
    pub checks: BTreeMap<String, bool>,
    /// The output of the example `selection` with `--json`.
    pub selection: Value,
}

/// The results that a console contains.
#[derive(Default)]
pub struct Outcome {
    pub checks: BTreeMap<String, bool>,
    pub selection: Value,
    /// The output of the example `selection` without `--json`.
    pub selection_text: String,
}

/// Reads the results of a complete console into `outcome`.
///
/// # Errors
/// If the run failed. The error contains the reason. Even then, `outcome` contains the results of
/// the checks.
pub fn read(console: &str, outcome: &mut Outcome) -> Result<()> {
    for line in console.lines() {
        if let Some((name, passed)) = check(line) {
            outcome.checks.insert(name.into(), passed);
        }
    }
    let mut parts = console.split(image::SELECTION).skip(1);
    let (text, json, tests) = (parts.next(), parts.next(), parts.next());
    let tests = tests.context("the machine did not start the tests")?;
    let announced = tests.lines().find_map(|line| line.strip_prefix("running ")?.split(' ').next());
    let announced: usize = announced.context("no test was started")?.parse()?;
    let failed: Vec<_> = outcome.checks.iter().filter(|(_, passed)| !**passed).collect();
    if !failed.is_empty() {
        let names: Vec<_> = failed.iter().map(|(name, _)| name.as_str()).collect();
        // The test harness lists the failures twice. The first list contains the output of the
        // failed tests, and is used here. The second list contains only names.
        let details = console.split("\nfailures:\n").nth(1).unwrap_or_default();
        anyhow::bail!("failed: {}\n{}", names.join(", "), indented(details));
    }
    anyhow::ensure!(
        announced > 0 && outcome.checks.len() == announced,
        "only {} of {announced} checks were run",
        outcome.checks.len()
    );
    let code = console.lines().find_map(|line| line.strip_prefix(image::END));
    anyhow::ensure!(code.map(str::trim) == Some("0"), "the tests ended with code {code:?}");

    outcome.selection_text = text.unwrap_or_default().trim().into();
    let json = json.and_then(|json| json.lines().find(|line| line.starts_with('{')));
    outcome.selection = serde_json::from_str(json.context("the machine printed no selection")?)?;
    Ok(())
}

/// Returns the name of a check and whether it passed, if `line` is the result of a check. An
/// ignored check counts as not passed.
pub fn check(line: &str) -> Option<(&str, bool)> {
    let (name, result) = line.strip_prefix("test kernel::")?.split_once(" ... ")?;
    Some((name.trim(), result.trim() == "ok"))
}

fn indented(text: &str) -> String {
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    lines.map(|line| format!("    {line}\n")).collect()
}

/// Renders a table with a row for each check and a column for each kernel.
pub fn table(runs: &[Run]) -> String {
    let mut checks: Vec<&String> = runs.iter().flat_map(|run| run.checks.keys()).collect();
    checks.sort();
    checks.dedup();
    let width = checks.iter().map(|check| check.len()).max().unwrap_or_default();
    let mut table = String::new();
    let mut line = |title: &str, cell: &dyn Fn(&Run) -> String| {
        let cells: String = runs.iter().map(|run| format!("{:>12}", cell(run))).collect();
        writeln!(table, "{title:<width$}{cells}").expect("writing to memory");
    };
    line("", &|run| run.kernel.clone());
    for check in checks {
        line(check, &|run| {
            match run.checks.get(check) {
                Some(true) => "ok",
                Some(false) => "FAILED",
                None => "not run",
            }
            .into()
        });
    }
    line("", &|_| String::new());
    line("release", &|run| upstream(&run.version).into());
    line("seconds", &|run| run.seconds.to_string());
    line("result", &|run| if run.failure.is_some() { "FAILED" } else { "ok" }.into());
    table
}

/// Returns the kernel's version from the version of its package: `5.10.262` from `5.10.262-1`.
pub fn upstream(version: &str) -> &str {
    version.split('-').next().unwrap_or(version)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn console(tests: &str, code: &str) -> String {
        let (line, end) = (image::SELECTION, image::END);
        format!(
            "{line}\nwords\n{line}\n{{\"modes\":{{}}}}\n{line}\nrunning 2 tests\n{tests}\n{end} {code}\n"
        )
    }

    fn result(console: &str) -> Result<()> {
        read(console, &mut Outcome::default())
    }

    #[test]
    fn a_run_passes_only_if_every_announced_check_passed() {
        let (one, two) = ("test kernel::a::one ... ok", "test kernel::a::two   ... ok");
        result(&console(&format!("{one}\n{two}"), "0")).unwrap();
        for (tests, code, message) in [
            (format!("{one}\n{two}"), "101", "code"),
            (one.to_string(), "0", "1 of 2"),
            (format!("{one}\ntest kernel::a::two ... FAILED"), "0", "failed: a::two"),
            (format!("{one}\ntest kernel::a::two ... ignored"), "0", "failed: a::two"),
            (String::new(), "0", "0 of 2"),
        ] {
            let error = result(&console(&tests, code)).unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        }
        assert!(result("Kernel panic - not syncing").is_err());
    }
}
