//! Writes a run into `docs/benchmarks.md`.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::report::document::Report;

const PAGE: &str = "docs/benchmarks.md";
const BEGIN: &str = "<!-- written by `make bench BENCH=--record`: begin -->\n";
const END: &str = "<!-- written by `make bench BENCH=--record`: end -->\n";
/// The folder for the pictures and `report.json`.
const PICTURES: &str = "bench/measured";
/// The same folder, relative to the page.
const PICTURES_FROM_PAGE: &str = "../bench/measured";

/// Writes a complete run into the page of the repository at `root`.
pub fn record(report: &Report, root: &Path) -> Result<()> {
    ensure!(!report.quick, "the figures of a quick form cannot be recorded");
    let path = root.join(PAGE);
    let page = fs::read_to_string(&path).context(PAGE)?;
    let pictures: Vec<&str> =
        report.parts.iter().flat_map(|part| &part.plots).map(|(name, _)| name.as_str()).collect();
    let pictures: String =
        pictures.iter().map(|name| format!("\n![]({PICTURES_FROM_PAGE}/{name})\n")).collect();
    fs::write(&path, replace(&page, &format!("```text\n{report}```\n{pictures}"))?)?;
    report.write(&root.join(PICTURES))?;
    // The page contains this text.
    fs::remove_file(root.join(PICTURES).join("report.txt"))?;
    Ok(())
}

/// Replaces the text between the markers.
fn replace(page: &str, text: &str) -> Result<String> {
    let parts = page.split_once(BEGIN).and_then(|(before, rest)| {
        let (_, after) = rest.split_once(END)?;
        Some((before, after))
    });
    let (before, after) =
        parts.with_context(|| format!("{PAGE} has no markers for the measured run"))?;
    Ok(format!("{before}{BEGIN}{text}{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_between_the_markers_is_replaced() {
        let page = format!("above\n{BEGIN}old\n{END}below\n");
        let new = replace(&page, "new\n").unwrap();
        assert_eq!(new, format!("above\n{BEGIN}new\n{END}below\n"));
        assert!(replace("no markers", "new").is_err());
    }
}
