//! Checks three rules: no module of the loader uses a module of a higher layer, only the loader's
//! module `sys` may contain unsafe code, and no crate has a cycle of modules.

use anyhow::{Context, Result, ensure};
use source_checks::cycles::cycles;
use source_checks::layers::upward_references;
use source_checks::lint;
use source_checks::modules::Crate;
use source_checks::workspace::Workspace;

/// The top-level modules of the loader, from the highest layer to the lowest. A module may use
/// the modules of its own layer and of lower layers.
const LOADER_LAYERS: &[&[&str]] = &[
    // On platforms without XDP, `unsupported` replaces all modules from `inspect` down to `sys`.
    &["inspect", "unsupported"],
    &["ingest"],
    &["xdp"],
    &["partitions"],
    &["object"],
    &["sys"],
    &["report"],
    &["config"],
    &["ids", "header", "artifact", "sync"],
];

#[test]
fn loader_allows_unsafe_code_in_sys_alone() -> Result<()> {
    let attributes = lint::attributes(&Workspace::read()?.root.join("loader/src"), "unsafe_code")?;
    let expected = ["lib.rs: deny (unsafe_code)", "sys/mod.rs: allow (unsafe_code)"];
    ensure!(attributes == expected, "attributes that name unsafe_code: {attributes:#?}");
    Ok(())
}

#[test]
fn loader_modules_use_no_module_of_a_higher_layer() -> Result<()> {
    let workspace = Workspace::read()?;
    let library = Crate::read(&workspace.root, &workspace.root.join("loader/src/lib.rs"))?;
    let violations = upward_references(&library, LOADER_LAYERS);
    ensure!(violations.is_empty(), "{}", violations.join("\n"));
    Ok(())
}

#[test]
fn modules_have_no_dependency_cycles() -> Result<()> {
    let workspace = Workspace::read()?;
    let targets = workspace.packages.iter().flat_map(|package| &package.targets);
    let mut found = Vec::new();
    for target in targets {
        let context = || target.src_path.display().to_string();
        let crate_ = Crate::read(&workspace.root, &target.src_path).with_context(context)?;
        let cycles = cycles(&crate_).into_iter();
        found.extend(cycles.map(|cycle| format!("{}: {cycle}", target.name)));
    }
    ensure!(found.is_empty(), "{}", found.join("\n"));
    Ok(())
}
