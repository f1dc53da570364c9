//! The layers of the loader, its one module of unsafe code, and modules without cycles.

use anyhow::{Context, Result, ensure};
use source_checks::cycles::cycles;
use source_checks::layers::upward_references;
use source_checks::lint;
use source_checks::modules::Crate;
use source_checks::workspace::Workspace;

/// The modules of the loader from top to bottom. A module may use those below it.
const LOADER_LAYERS: &[&[&str]] = &[
    // On platforms without XDP, `unsupported` stands for everything down to `sys`.
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
fn loader_modules_use_only_modules_below_them() -> Result<()> {
    let workspace = Workspace::read()?;
    let library = Crate::read(&workspace.root, &workspace.root.join("loader/src/lib.rs"))?;
    let violations = upward_references(&library, LOADER_LAYERS);
    ensure!(violations.is_empty(), "{}", violations.join("\n"));
    Ok(())
}

#[test]
fn no_module_needs_a_module_that_needs_it() -> Result<()> {
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
