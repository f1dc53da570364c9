//! Tables of figures, and their text form.

use std::fmt::{self, Write as _};

use serde::{Deserialize, Serialize};

use crate::report::figure::Figure;

/// Rows of figures.
#[derive(Debug, Serialize, Deserialize)]
pub struct Table {
    /// What the figures measure, and in which unit.
    pub title: String,
    /// The heading of each column.
    pub columns: Vec<String>,
    /// The rows.
    pub rows: Vec<Row>,
    /// The row by which [`crate::report::compare`] divides the other rows. `None` if `compare`
    /// ignores this table.
    pub ratios_to: Option<String>,
}

/// One row.
#[derive(Debug, Serialize, Deserialize)]
pub struct Row {
    /// What was measured.
    pub name: String,
    /// A figure for each column; `None` where nothing was measured.
    pub figures: Vec<Option<Figure>>,
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

/// Formats a figure: the median, and also the two percentiles if they differ from each other.
fn cell(figure: Figure) -> String {
    let Figure { median, low, high } = figure;
    match low == high {
        true => number(median),
        false => format!("{} ({}..{})", number(median), number(low), number(high)),
    }
}

/// Formats a number with three significant digits. If the number has more than three digits before
/// the decimal point, keeps all of those digits.
pub fn number(value: f64) -> String {
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
    fn the_columns_of_a_table_line_up() {
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
            "    yyy                           12 (12..13)\n",
        );
        assert_eq!(table.to_string(), expected);
    }
}
