//! Compares two runs: whether the ratios between contenders agree, and whether the order of the
//! contenders agrees.

use std::fmt;

use crate::report::document::Report;
use crate::report::table::{Row, Table};

/// Two runs agree if no ratio differs by more than this fraction.
const TOLERANCE: f64 = 0.15;

/// Two figures that differ by at most this fraction count as equal. Their order is then ignored.
const TIE: f64 = 0.05;

/// The differences between two runs.
#[derive(Debug, Default)]
pub struct Comparison {
    compared: usize,
    largest_change: f64,
    differences: Vec<String>,
}

/// Compares the ratios and the order of the rows, for each table that has ratios.
pub fn compare(earlier: &Report, later: &Report) -> Comparison {
    let mut comparison = Comparison::default();
    if earlier.machine.processor != later.machine.processor {
        comparison.differences.push("the runs are from different machines".into());
    }
    if earlier.quick || later.quick {
        comparison.differences.push("the figures of a quick run cannot be compared".into());
    }
    for part in &later.parts {
        let before = earlier.parts.iter().find(|before| before.name == part.name);
        for table in &part.tables {
            let Some(base) = &table.ratios_to else { continue };
            let before = before
                .and_then(|part| part.tables.iter().find(|before| before.title == table.title));
            match before {
                Some(before) => comparison.add(before, table, base),
                None => comparison.missing(&table.title),
            }
        }
    }
    comparison
}

impl Comparison {
    /// Whether all ratios and all orders agree. False if the two runs have no ratio in common.
    pub fn agrees(&self) -> bool {
        self.differences.is_empty() && self.compared > 0
    }

    fn missing(&mut self, what: &str) {
        self.differences
            .push(format!("{what}: only one run has this figure, or its baseline is missing"));
    }

    fn add(&mut self, earlier: &Table, later: &Table, base: &str) {
        for (column, title) in later.columns.iter().enumerate() {
            let (before, after) = (ratios(earlier, column, base), ratios(later, column, base));
            let mut both: Vec<(&str, f64, f64)> = Vec::new();
            for row in &later.rows {
                let of = |ratios: &[(&str, f64)]| {
                    Some(ratios.iter().find(|(name, _)| *name == row.name)?.1)
                };
                match of(&before).zip(of(&after)) {
                    Some((before, after)) => both.push((&row.name, before, after)),
                    None => self.missing(&format!("{}, {title}: {}", later.title, row.name)),
                }
            }
            for (i, (name, before, after)) in both.iter().enumerate() {
                let what = format!("{}, {title}: {name}", later.title);
                if *name != base {
                    self.compared += 1;
                    let change = (after / before - 1.0).abs();
                    self.largest_change = self.largest_change.max(change);
                    if change.is_nan() || change > TOLERANCE {
                        self.differences.push(format!(
                            "{what} is {after:.2} times {base}, but was {before:.2} times {base}"
                        ));
                    }
                }
                for (other, other_before, other_after) in &both[i + 1..] {
                    let order = |a: &f64, b: &f64| a < b && b / a > 1.0 + TIE;
                    let swapped = order(before, other_before) && order(other_after, after)
                        || order(other_before, before) && order(after, other_after);
                    if swapped {
                        self.differences.push(format!("{what} and {other} changed their order"));
                    }
                }
            }
        }
    }
}

/// Returns each figure of a column as a multiple of the figure in the row `base`. Returns an empty
/// vector if the figure in that row is missing or 0.
fn ratios<'a>(table: &'a Table, column: usize, base: &str) -> Vec<(&'a str, f64)> {
    let median = |row: &Row| Some(row.figures.get(column)?.as_ref()?.median);
    let base = table.rows.iter().find(|row| row.name == base).and_then(median);
    let Some(base) = base.filter(|base| *base > 0.0) else { return Vec::new() };
    let rows = table.rows.iter();
    rows.filter_map(|row| Some((row.name.as_str(), median(row)? / base))).collect()
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Comparison { compared, largest_change, differences } = self;
        writeln!(
            f,
            "{compared} ratios compared with the earlier run; the largest change is {:.0} %",
            100.0 * largest_change
        )?;
        differences.iter().try_for_each(|difference| writeln!(f, "DIFFERS: {difference}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::document::Part;
    use crate::report::figure::Figure;
    use crate::report::machine::Machine;

    fn report(figures: [f64; 3]) -> Report {
        let row = |(name, figure): (&str, f64)| Row {
            name: name.into(),
            figures: vec![Figure::of(&[figure])],
        };
        let table = Table {
            title: "ns".into(),
            columns: vec!["flood".into()],
            rows: ["baseline", "native", "generic"].into_iter().zip(figures).map(row).collect(),
            ratios_to: Some("baseline".into()),
        };
        let mut part = Part::new("junk", "");
        part.tables.push(table);
        let machine = Machine {
            processor: "one".into(),
            cpus: 2,
            virtual_machine: true,
            kernel: "Linux".into(),
            network: "veth".into(),
            date: "today".into(),
        };
        Report { machine, quick: false, parts: vec![part] }
    }

    #[test]
    fn ratios_agree_on_a_machine_that_is_twice_as_slow() {
        let comparison = compare(&report([100.0, 103.0, 500.0]), &report([200.0, 206.0, 1000.0]));
        assert!(comparison.agrees(), "{comparison}");
        assert_eq!(comparison.compared, 2);
    }

    #[test]
    fn a_changed_ratio_or_order_is_a_difference() {
        let earlier = report([100.0, 110.0, 120.0]);
        assert!(!compare(&earlier, &report([100.0, 110.0, 140.0])).agrees());
        let swapped = compare(&earlier, &report([100.0, 122.0, 110.0]));
        assert!(swapped.to_string().contains("changed their order"), "{swapped}");
        // The figures in the second and third rows differ by less than `TIE`, so the order of these
        // two rows is ignored.
        assert!(compare(&report([100.0, 103.0, 104.0]), &report([100.0, 104.0, 102.0])).agrees());
    }

    #[test]
    fn runs_without_common_rows_do_not_agree() {
        let nothing = || Report { parts: Vec::new(), ..report([1.0; 3]) };
        assert!(!compare(&report([1.0; 3]), &nothing()).agrees());
        assert!(!compare(&nothing(), &report([1.0; 3])).agrees());
        let mut fewer = report([1.0; 3]);
        fewer.parts[0].tables[0].rows.pop();
        assert!(!compare(&fewer, &report([1.0; 3])).agrees());
        let quick = Report { quick: true, ..report([1.0; 3]) };
        assert!(!compare(&report([1.0; 3]), &quick).agrees());
    }
}
