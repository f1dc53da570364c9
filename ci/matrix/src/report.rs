//! What came of each kernel: a table for people, JSON for scripts.

use std::collections::BTreeMap;
use std::fmt::Write;

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::Value;

use crate::image;
use crate::kernels::Architecture;

/// One kernel's run.
#[derive(Serialize)]
pub struct Run {
    /// As `kernels.toml` names it.
    pub kernel: String,
    pub architecture: Architecture,
    pub package: String,
    pub version: String,
    pub seconds: u64,
    /// Why it does not count, in words; none if all is well.
    pub failure: Option<String>,
    /// Each check, and whether it went well.
    pub checks: BTreeMap<String, bool>,
    /// What the machine chose, as its example printed it.
    pub selection: Value,
}

/// What a console shows.
#[derive(Default)]
pub struct Outcome {
    pub checks: BTreeMap<String, bool>,
    pub selection: Value,
    /// The same in words.
    pub words: String,
}

/// Reads a whole console. An error says what is wrong with the run, whose checks are
/// in `outcome` all the same.
pub fn read(console: &str, outcome: &mut Outcome) -> Result<()> {
    for line in console.lines() {
        if let Some((name, passed)) = check(line) {
            outcome.checks.insert(name.into(), passed);
        }
    }
    let mut parts = console.split(image::SELECTION).skip(1);
    let (words, json, tests) = (parts.next(), parts.next(), parts.next());
    let tests = tests.context("the machine did not come to the tests")?;
    let promised = tests.lines().find_map(|line| line.strip_prefix("running ")?.split(' ').next());
    let promised: usize = promised.context("no test was started")?.parse()?;
    let failed: Vec<_> = outcome.checks.iter().filter(|(_, passed)| !**passed).collect();
    if !failed.is_empty() {
        let names: Vec<_> = failed.iter().map(|(name, _)| name.as_str()).collect();
        // The harness lists the failures twice: with what they said, and by name.
        let details = console.split("\nfailures:\n").nth(1).unwrap_or_default();
        anyhow::bail!("failed: {}\n{}", names.join(", "), indented(details));
    }
    anyhow::ensure!(
        promised > 0 && outcome.checks.len() == promised,
        "{} of {promised} checks were run",
        outcome.checks.len()
    );
    let code = console.lines().find_map(|line| line.strip_prefix(image::END));
    anyhow::ensure!(code.map(str::trim) == Some("0"), "the tests ended with code {code:?}");

    outcome.words = words.unwrap_or_default().trim().into();
    let json = json.and_then(|json| json.lines().find(|line| line.starts_with('{')));
    outcome.selection = serde_json::from_str(json.context("the machine printed no selection")?)?;
    Ok(())
}

/// A check's name and whether it passed, if a line tells of one. One that was
/// ignored did not pass.
pub fn check(line: &str) -> Option<(&str, bool)> {
    let (name, result) = line.strip_prefix("test kernel::")?.split_once(" ... ")?;
    Some((name.trim(), result.trim() == "ok"))
}

fn indented(text: &str) -> String {
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    lines.map(|line| format!("    {line}\n")).collect()
}

/// Checks down, kernels across.
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
    line("all in all", &|run| if run.failure.is_some() { "FAILED" } else { "ok" }.into());
    table
}

/// The kernel's own version in that of a package: `5.10.262` of `5.10.262-1`.
pub fn upstream(version: &str) -> &str {
    version.split('-').next().unwrap_or(version)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn console(tests: &str, code: &str) -> String {
        let (mark, end) = (image::SELECTION, image::END);
        format!(
            "{mark}\nwords\n{mark}\n{{\"modes\":{{}}}}\n{mark}\nrunning 2 tests\n{tests}\n{end} {code}\n"
        )
    }

    fn verdict(console: &str) -> Result<()> {
        read(console, &mut Outcome::default())
    }

    #[test]
    fn only_a_whole_and_clean_run_counts() {
        let (one, two) = ("test kernel::a::one ... ok", "test kernel::a::two   ... ok");
        verdict(&console(&format!("{one}\n{two}"), "0")).unwrap();
        for (tests, code, says) in [
            (format!("{one}\n{two}"), "101", "code"),
            (one.to_string(), "0", "1 of 2"),
            (format!("{one}\ntest kernel::a::two ... FAILED"), "0", "failed: a::two"),
            (format!("{one}\ntest kernel::a::two ... ignored"), "0", "failed: a::two"),
            (String::new(), "0", "0 of 2"),
        ] {
            let error = verdict(&console(&tests, code)).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
        assert!(verdict("Kernel panic - not syncing").is_err());
    }
}
