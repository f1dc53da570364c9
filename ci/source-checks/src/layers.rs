//! Finds modules that need a module of a higher layer.

use crate::modules::Crate;

/// Describes each reference from a top-level module to a module of a higher layer, and each
/// top-level module that has no layer. `layers` lists the top-level modules from the highest
/// layer to the lowest. The root is above all layers.
pub fn upward_references(crate_: &Crate, layers: &[&[&str]]) -> Vec<String> {
    let layer_of = |module: &str| layers.iter().position(|layer| layer.contains(&module));
    let without_layer = crate_.top_modules().filter(|module| layer_of(module).is_none());
    let mut violations: Vec<String> =
        without_layer.map(|module| format!("the module {module} has no layer")).collect();
    for reference in crate_.references() {
        let Some(from) = reference.from.first() else { continue };
        // The written path of a re-exported item names one top-level module, and another top-level
        // module defines the item. The reference violates the rule if either of the two modules is
        // higher.
        let [written, leads_to] = [&reference.path, &reference.to].map(|path| path.first());
        for to in [written, leads_to] {
            let to = to.map(String::as_str).filter(|to| crate_.top_modules().any(|it| it == *to));
            let is_upward = match to {
                Some(to) => layer_of(to) < layer_of(from),
                None => true,
            };
            if is_upward {
                let to = to.unwrap_or("the root");
                violations.push(format!("{reference}: {from} refers to {to}, which is above it"));
                break;
            }
        }
    }
    // If one line names several items of a module, report the violation only once.
    violations.dedup();
    violations
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::modules::tests::read;

    #[test]
    fn upward_references_and_modules_without_layer_are_named() {
        let crate_ = read(&[
            ("lib.rs", "mod top; mod low; mod lowest; mod new; pub use low::L;"),
            ("top.rs", "use crate::low::L; pub use crate::lowest::M;"),
            ("low/mod.rs", "mod inner; use crate::lowest;"),
            ("low/inner.rs", "use crate::low::L;\nfn f() { crate::top::f() }"),
            ("lowest.rs", "use crate::L;\nuse crate::{top::{M, T}};"),
            ("new.rs", ""),
        ]);
        let layers: &[&[&str]] = &[&["top"], &["low"], &["lowest"]];
        let expected = [
            "the module new has no layer",
            "low/inner.rs:2: low refers to top, which is above it",
            "lowest.rs:1: lowest refers to the root, which is above it",
            "lowest.rs:2: lowest refers to top, which is above it",
        ];
        assert_eq!(upward_references(&crate_, layers), expected);
    }
}
