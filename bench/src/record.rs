//! A run that is shown in `BENCHMARKS.md`.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::report::Report;

const PAGE: &str = "BENCHMARKS.md";
const BEGIN: &str = "<!-- written by `make bench BENCH=--record`: begin -->\n";
const END: &str = "<!-- written by `make bench BENCH=--record`: end -->\n";
/// Where the pictures are that the page shows.
const PICTURES: &str = "bench/measured";

/// Puts a whole run into the page of the repository at `root`.
pub fn record(report: &Report, root: &Path) -> Result<()> {
    ensure!(!report.quick, "the quick form has no figures to record");
    let path = root.join(PAGE);
    let page = fs::read_to_string(&path).context(PAGE)?;
    let pictures: Vec<&str> =
        report.parts.iter().flat_map(|part| &part.plots).map(|(name, _)| name.as_str()).collect();
    let pictures: String =
        pictures.iter().map(|name| format!("\n![]({PICTURES}/{name})\n")).collect();
    fs::write(&path, replace(&page, &format!("```text\n{report}```\n{pictures}"))?)?;
    report.write(&root.join(PICTURES))?;
    // It stands in the page.
    fs::remove_file(root.join(PICTURES).join("report.txt"))?;
    Ok(())
}

fn replace(page: &str, text: &str) -> Result<String> {
    let parts = page.split_once(BEGIN).and_then(|(before, rest)| {
        let (_, after) = rest.split_once(END)?;
        Some((before, after))
    });
    let (before, after) = parts.with_context(|| format!("{PAGE} has lost its marks"))?;
    Ok(format!("{before}{BEGIN}{text}{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_between_the_marks_is_replaced() {
        let page = format!("above\n{BEGIN}old\n{END}below\n");
        let new = replace(&page, "new\n").unwrap();
        assert_eq!(new, format!("above\n{BEGIN}new\n{END}below\n"));
        assert!(replace("no marks", "new").is_err());
    }
}
