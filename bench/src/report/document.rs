//! The report of a run, as text and as JSON.

use std::fmt;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::report::machine::Machine;
use crate::report::table::{Table, number};

/// The results of one run.
#[derive(Debug, Serialize, Deserialize)]
pub struct Report {
    /// The machine that was measured.
    pub machine: Machine,
    /// Whether this was a quick run. Its figures only show that the benchmark works.
    pub quick: bool,
    /// The parts, in the order of the run.
    pub parts: Vec<Part>,
}

/// The results of one part.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Part {
    /// The name of the part on the command line.
    pub name: String,
    /// The title.
    pub title: String,
    /// The figures.
    pub tables: Vec<Table>,
    /// The goals that the design sets for these figures.
    pub goals: Vec<Goal>,
    /// The figures that are missing, each with the reason why it is missing.
    pub left_out: Vec<String>,
    /// The pictures: file names and contents.
    #[serde(skip)]
    pub plots: Vec<(String, String)>,
}

/// A limit that the design sets for a figure, and whether this run meets the limit.
#[derive(Debug, Serialize, Deserialize)]
pub struct Goal {
    /// The quantity that is limited.
    pub what: String,
    /// The limit as text.
    pub limit: String,
    /// The figure of this run.
    pub value: f64,
    /// Whether the figure is within the limit.
    pub met: bool,
}

impl Goal {
    /// The goal that a figure is at most `limit`.
    pub fn at_most(what: &str, value: f64, limit: f64) -> Goal {
        Goal { what: what.into(), limit: format!("at most {limit}"), value, met: value <= limit }
    }

    /// The goal that a figure is at least `limit`.
    pub fn at_least(what: &str, value: f64, limit: f64) -> Goal {
        Goal { what: what.into(), limit: format!("at least {limit}"), value, met: value >= limit }
    }
}

impl Part {
    /// A part without figures.
    pub fn new(name: &str, title: &str) -> Part {
        Part { name: name.into(), title: title.into(), ..Part::default() }
    }
}

impl Report {
    /// Reads the `report.json` of an earlier run.
    pub fn read(path: &Path) -> Result<Report> {
        let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
        serde_json::from_str(&text).with_context(|| path.display().to_string())
    }

    /// Writes the report as text and as JSON, and writes the pictures.
    pub fn write(&self, folder: &Path) -> Result<()> {
        fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        fs::write(folder.join("report.json"), serde_json::to_string_pretty(self)? + "\n")?;
        fs::write(folder.join("report.txt"), self.to_string())?;
        for (name, picture) in self.parts.iter().flat_map(|part| &part.plots) {
            fs::write(folder.join(name), picture)?;
        }
        Ok(())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.machine)?;
        if self.quick {
            writeln!(f, "quick run: it only shows that everything runs; do not use its figures")?;
        }
        self.parts.iter().try_for_each(|part| write!(f, "\n{part}"))
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} ({})", self.title, self.name)?;
        for table in &self.tables {
            write!(f, "\n{table}")?;
        }
        for missing in &self.left_out {
            writeln!(f, "\nleft out: {missing}")?;
        }
        if !self.goals.is_empty() {
            writeln!(f)?;
        }
        for Goal { what, limit, value, met } in &self.goals {
            let word = if *met { "met" } else { "MISSED" };
            writeln!(f, "{word}: {what}: {}, {limit}", number(*value))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goal_includes_its_limit() {
        assert!(Goal::at_most("", 1.05, 1.05).met && !Goal::at_most("", 1.06, 1.05).met);
        assert!(Goal::at_least("", 26.0, 26.0).met && !Goal::at_least("", 25.0, 26.0).met);
    }
}
