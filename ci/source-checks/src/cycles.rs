//! Finds cycles: modules of one folder that need each other, directly or through other modules. A
//! module and all modules in its own folder count as one module. References to items that a
//! folder's `mod.rs` defines do not count.

use std::collections::BTreeMap;

use crate::modules::{Crate, Reference};

/// For each module of one folder: the modules of that folder that it needs. Each needed module
/// comes with one reference as an example.
type Needs = BTreeMap<String, BTreeMap<String, Reference>>;

/// Describes each cycle, with a file and line for each step.
pub fn cycles(crate_: &Crate) -> Vec<String> {
    let mut folders: BTreeMap<Vec<String>, Needs> = BTreeMap::new();
    for reference in crate_.references() {
        let (from, to) = (&reference.from, &reference.to);
        let common = from.iter().zip(to).take_while(|(a, b)| a == b).count();
        if let (Some(a), Some(b)) = (from.get(common), to.get(common)) {
            let needs = folders.entry(from[..common].to_vec()).or_default();
            let (a, b) = (a.clone(), b.clone());
            needs.entry(a).or_default().entry(b).or_insert(reference);
        }
    }
    folders.iter().flat_map(|(folder, needs)| cycles_of(folder, needs)).collect()
}

/// Describes the cycles of one folder. Searches a shortest cycle through each module. If the search
/// finds the same cycle for several modules, the cycle is described only once.
fn cycles_of(folder: &[String], needs: &Needs) -> Vec<String> {
    let mut found: Vec<Vec<&str>> = Vec::new();
    for start in needs.keys() {
        if let Some(cycle) = shortest_cycle(needs, start) {
            let is_known = found.iter().any(|known| {
                known.len() == cycle.len() && cycle.iter().all(|module| known.contains(module))
            });
            if !is_known {
                found.push(cycle);
            }
        }
    }
    let describe = |cycle: &Vec<&str>| {
        let steps = cycle.iter().zip(cycle.iter().cycle().skip(1));
        let steps = steps.map(|(a, b)| format!("{a} needs {b} ({})", needs[*a][*b]));
        let folder: String = folder.iter().map(|module| format!("::{module}")).collect();
        format!("cycle in crate{folder}: {}", steps.collect::<Vec<_>>().join(", "))
    };
    found.iter().map(describe).collect()
}

/// Returns the modules on a shortest cycle through `start` (breadth-first search).
fn shortest_cycle<'a>(needs: &'a Needs, start: &'a str) -> Option<Vec<&'a str>> {
    let mut ways = vec![vec![start]];
    let mut seen = vec![start];
    while !ways.is_empty() {
        let mut longer = Vec::new();
        for way in ways {
            let last = needs.get(*way.last()?);
            for next in last.into_iter().flat_map(BTreeMap::keys) {
                if next == start {
                    return Some(way);
                }
                if !seen.contains(&next.as_str()) {
                    seen.push(next);
                    longer.push([&way[..], &[next.as_str()]].concat());
                }
            }
        }
        ways = longer;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::modules::tests::read;

    #[test]
    fn cycles_are_named_with_their_places() {
        let crate_ = read(&[
            ("lib.rs", "mod a; mod b; mod c; mod d;"),
            ("a.rs", "use crate::b::B;"),
            ("b.rs", "\nfn f() { crate::c::g() }"),
            ("c.rs", "use super::{a, d};"),
            ("d.rs", ""),
        ]);
        let expected = "cycle in crate: a needs b (a.rs:1), b needs c (b.rs:2), \
                        c needs a (c.rs:1)";
        assert_eq!(cycles(&crate_), [expected]);
    }

    #[test]
    fn a_folder_is_one_module_and_reexports_hide_no_cycle() {
        let crate_ = read(&[
            ("lib.rs", "mod a; mod b;"),
            ("a/mod.rs", "mod c; mod d; pub use c::C; pub use d::D;"),
            ("a/c.rs", "use crate::a::D; use crate::b;"),
            ("a/d.rs", "use super::C;"),
            ("b.rs", "use crate::a::D;"),
        ]);
        let expected = [
            "cycle in crate: a needs b (a/c.rs:1), b needs a (b.rs:1)",
            "cycle in crate::a: c needs d (a/c.rs:1), d needs c (a/d.rs:1)",
        ];
        assert_eq!(cycles(&crate_), expected);
    }

    #[test]
    fn what_the_parent_defines_makes_no_cycle() {
        let crate_ = read(&[
            ("lib.rs", "mod a;"),
            ("a/mod.rs", "mod c; mod d; fn helper() { c::f(); }"),
            ("a/c.rs", "use super::helper; use super::d;"),
            ("a/d.rs", "use crate::a::helper;"),
        ]);
        assert!(cycles(&crate_).is_empty());
    }
}
