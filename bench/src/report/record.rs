//! Writes a run into `docs/benchmarks.md`.

use std::fs;
use std::path::Path;

use anyhow::{Result, ensure};
use generated_docs::Section;

use crate::report::document::Report;

const SECTION: Section = Section::new("docs/benchmarks.md", "make bench BENCH=--record");
/// The folder for the pictures and `report.json`.
const PICTURES: &str = "bench/measured";
/// The folder of the pictures, relative to `docs/benchmarks.md`.
const PICTURES_FROM_PAGE: &str = "../bench/measured";

/// Writes a complete run into `docs/benchmarks.md` of the repository at `root`.
pub fn record(report: &Report, root: &Path) -> Result<()> {
    ensure!(!report.quick, "the figures of a quick run cannot be recorded");
    let pictures: Vec<&str> =
        report.parts.iter().flat_map(|part| &part.plots).map(|(name, _)| name.as_str()).collect();
    let pictures: String =
        pictures.iter().map(|name| format!("\n![]({PICTURES_FROM_PAGE}/{name})\n")).collect();
    SECTION.write(root, &format!("```text\n{report}```\n{pictures}"))?;
    report.write(&root.join(PICTURES))?;
    // Do not keep `report.txt`, because the page already contains its text.
    fs::remove_file(root.join(PICTURES).join("report.txt"))?;
    Ok(())
}
