//! Whether two runs say the same.

use std::fmt;

use crate::report::{Report, Row, Table};

/// How far a ratio may lie from that of another run, as a share of it.
const TOLERANCE: f64 = 0.15;

/// Figures that lie closer together than this have no order between them.
const TIE: f64 = 0.05;

/// What two runs of the same measurement differ in.
#[derive(Debug, Default)]
pub struct Comparison {
    compared: usize,
    worst: f64,
    differences: Vec<String>,
}

/// Compares the ratios of each table that has any, and the order of its rows.
pub fn compare(earlier: &Report, later: &Report) -> Comparison {
    let mut comparison = Comparison::default();
    let mut differ = |what: &str, is: bool| {
        if is {
            comparison.differences.push(what.into());
        }
    };
    differ(
        "they come from different machines",
        earlier.machine.processor != later.machine.processor,
    );
    differ("a quick form has no figures to compare", earlier.quick || later.quick);
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
    /// Whether the order is the same and all ratios are.
    pub fn agrees(&self) -> bool {
        self.differences.is_empty() && self.compared > 0
    }

    fn missing(&mut self, what: &str) {
        self.differences.push(format!("{what}: is in one of them only, or cannot be compared"));
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
                    self.worst = self.worst.max(change);
                    if change.is_nan() || change > TOLERANCE {
                        self.differences.push(format!(
                            "{what} is {after:.2} times {base}, and was {before:.2} times"
                        ));
                    }
                }
                for (other, other_before, other_after) in &both[i + 1..] {
                    let order = |a: &f64, b: &f64| a < b && b / a > 1.0 + TIE;
                    let turned = order(before, other_before) && order(other_after, after)
                        || order(other_before, before) && order(after, other_after);
                    if turned {
                        self.differences.push(format!("{what} and {other} changed places"));
                    }
                }
            }
        }
    }
}

/// Each row of a column as a multiple of one row.
fn ratios<'a>(table: &'a Table, column: usize, base: &str) -> Vec<(&'a str, f64)> {
    let median = |row: &Row| Some(row.figures.get(column)?.as_ref()?.median);
    let base = table.rows.iter().find(|row| row.name == base).and_then(median);
    let Some(base) = base.filter(|base| *base > 0.0) else { return Vec::new() };
    let rows = table.rows.iter();
    rows.filter_map(|row| Some((row.name.as_str(), median(row)? / base))).collect()
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Comparison { compared, worst, differences } = self;
        writeln!(
            f,
            "{compared} ratios compared with the earlier run; the furthest apart differs by {:.0} %",
            100.0 * worst
        )?;
        differences.iter().try_for_each(|difference| writeln!(f, "DIFFERS: {difference}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::Figure;
    use crate::machine::Machine;
    use crate::report::Part;

    fn report(figures: [f64; 3]) -> Report {
        let row = |(name, figure): (&str, f64)| Row {
            name: name.into(),
            figures: vec![Some(Figure::of(&[figure]))],
        };
        let table = Table {
            title: "ns".into(),
            columns: vec!["flood".into()],
            rows: ["floor", "native", "generic"].into_iter().zip(figures).map(row).collect(),
            ratios_to: Some("floor".into()),
        };
        let mut part = Part::new("junk", "");
        part.tables.push(table);
        let machine = Machine {
            processor: "one".into(),
            cpus: 2,
            virtual_machine: true,
            kernel: "Linux".into(),
            wire: "veth".into(),
            date: "today".into(),
        };
        Report { machine, quick: false, parts: vec![part] }
    }

    #[test]
    fn a_machine_twice_as_slow_says_the_same() {
        let comparison = compare(&report([100.0, 103.0, 500.0]), &report([200.0, 206.0, 1000.0]));
        assert!(comparison.agrees(), "{comparison}");
        assert_eq!(comparison.compared, 2);
    }

    #[test]
    fn another_ratio_and_another_order_differ() {
        let earlier = report([100.0, 110.0, 120.0]);
        assert!(!compare(&earlier, &report([100.0, 110.0, 140.0])).agrees());
        let turned = compare(&earlier, &report([100.0, 122.0, 110.0]));
        assert!(turned.to_string().contains("changed places"), "{turned}");
        // Closer together than what can be told apart.
        assert!(compare(&report([100.0, 103.0, 104.0]), &report([100.0, 104.0, 102.0])).agrees());
    }

    #[test]
    fn nothing_in_common_is_no_agreement() {
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
