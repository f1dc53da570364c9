//! What was found, to read and to compare.

use std::fmt::{self, Write as _};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::figures::Figure;
use crate::machine::Machine;

/// Everything that one run found.
#[derive(Debug, Serialize, Deserialize)]
pub struct Report {
    /// Where.
    pub machine: Machine,
    /// Whether it was the quick form, which proves that it runs and nothing else.
    pub quick: bool,
    /// What, in the order of the run.
    pub parts: Vec<Part>,
}

/// One part of it.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Part {
    /// Its name on the command line.
    pub name: String,
    /// What it is about.
    pub title: String,
    /// The figures.
    pub tables: Vec<Table>,
    /// What was promised of them.
    pub promises: Vec<Promise>,
    /// What is not among them, and why.
    pub left_out: Vec<String>,
    /// Files with pictures of them, and what is in these.
    #[serde(skip)]
    pub plots: Vec<(String, String)>,
}

/// Rows of figures.
#[derive(Debug, Serialize, Deserialize)]
pub struct Table {
    /// What the figures are, with their unit.
    pub title: String,
    /// What each column is.
    pub columns: Vec<String>,
    /// The rows.
    pub rows: Vec<Row>,
    /// The row to which the others are compared, where a ratio means something.
    pub ratios_to: Option<String>,
}

/// One row.
#[derive(Debug, Serialize, Deserialize)]
pub struct Row {
    /// Who.
    pub name: String,
    /// A figure for each column, where there is one.
    pub figures: Vec<Option<Figure>>,
}

/// A limit that a figure has to keep.
#[derive(Debug, Serialize, Deserialize)]
pub struct Promise {
    /// Of what.
    pub what: String,
    /// The limit, in words.
    pub limit: String,
    /// The figure.
    pub found: f64,
    /// Whether it keeps the limit.
    pub kept: bool,
}

impl Promise {
    /// It is at most so much.
    pub fn at_most(what: &str, found: f64, most: f64) -> Promise {
        let limit = format!("at most {most}");
        Promise { what: what.into(), limit, found, kept: found <= most }
    }

    /// It is at least so much.
    pub fn at_least(what: &str, found: f64, least: f64) -> Promise {
        let limit = format!("at least {least}");
        Promise { what: what.into(), limit, found, kept: found >= least }
    }
}

impl Part {
    /// One without figures.
    pub fn new(name: &str, title: &str) -> Part {
        Part { name: name.into(), title: title.into(), ..Part::default() }
    }
}

impl Report {
    /// Reads one that was written.
    pub fn read(path: &Path) -> Result<Report> {
        let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
        serde_json::from_str(&text).with_context(|| path.display().to_string())
    }

    /// Writes it for people and for scripts, with its pictures.
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
            writeln!(
                f,
                "the quick form: it shows that everything runs; believe none of its figures"
            )?;
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
        if !self.promises.is_empty() {
            writeln!(f)?;
        }
        for Promise { what, limit, found, kept } in &self.promises {
            let word = if *kept { "kept" } else { "MISSED" };
            writeln!(f, "{word}: {what}: {}, {limit}", number(*found))?;
        }
        Ok(())
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cells: Vec<Vec<String>> = self
            .rows
            .iter()
            .map(|row| {
                row.figures.iter().map(|figure| figure.map(cell).unwrap_or_default()).collect()
            })
            .collect();
        let names = self.rows.iter().map(|row| row.name.chars().count()).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = cells.iter().map(|row| row[column].chars().count());
            cells.chain([self.columns[column].chars().count()]).max().unwrap_or(0)
        };
        writeln!(f, "  {}", self.title)?;
        let line = |name: &str, cells: &[String]| {
            let mut line = format!("    {name:<names$}");
            for (column, cell) in cells.iter().enumerate() {
                write!(line, "  {cell:>0$}", width(column)).expect("writing to memory");
            }
            line
        };
        writeln!(f, "{}", line("", &self.columns).trim_end())?;
        for (row, cells) in self.rows.iter().zip(&cells) {
            writeln!(f, "{}", line(&row.name, cells).trim_end())?;
        }
        Ok(())
    }
}

/// A figure for people: the middle, and where the others lie if they lie elsewhere.
fn cell(figure: Figure) -> String {
    let Figure { median, low, high } = figure;
    match low == high {
        true => number(median),
        false => format!("{} ({}..{})", number(median), number(low), number(high)),
    }
}

/// Three digits, or as many as stand before the point.
fn number(value: f64) -> String {
    let digits = match value.abs() {
        size if size >= 99.95 || value.fract() == 0.0 => 0,
        size if size >= 9.995 => 1,
        _ => 2,
    };
    format!("{value:.digits$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_lines_up() {
        let figure = |median: f64| Some(Figure { median, low: median, high: median + 1.0 });
        let table = Table {
            title: "ns".into(),
            columns: vec!["a".into(), "b".into()],
            rows: vec![
                Row { name: "x".into(), figures: vec![figure(1.234), figure(1234.5)] },
                Row { name: "yyy".into(), figures: vec![None, figure(12.0)] },
            ],
            ratios_to: None,
        };
        let expected = concat!(
            "  ns\n",
            "                         a                  b\n",
            "    x    1.23 (1.23..2.23)  1234 (1234..1236)\n",
            "    yyy                          12 (12..13)\n"
        );
        let text = table.to_string();
        let widths: Vec<usize> = text.lines().skip(1).map(|line| line.len()).collect();
        assert_eq!(widths, vec![widths[0]; 3], "{text}\n{expected}");
        assert!(text.contains("x    1.23 (1.23..2.23)"), "{text}");
    }

    #[test]
    fn a_limit_is_kept_or_missed() {
        assert!(Promise::at_most("", 1.05, 1.05).kept && !Promise::at_most("", 1.06, 1.05).kept);
        assert!(Promise::at_least("", 26.0, 26.0).kept && !Promise::at_least("", 25.0, 26.0).kept);
    }
}
