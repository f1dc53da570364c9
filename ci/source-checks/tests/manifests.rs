//! Checks the fields that every manifest of the workspace must declare.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, ensure};
use source_checks::workspace::Workspace;

/// Cargo and clippy check the Rust version of a package only if the package declares one.
#[test]
fn every_package_declares_the_same_rust_version() -> Result<()> {
    let packages = Workspace::read()?.packages;
    let declared: BTreeMap<_, _> =
        packages.iter().map(|package| (&package.name, &package.rust_version)).collect();
    let versions: BTreeSet<_> = declared.values().collect();
    ensure!(versions.len() == 1 && !versions.contains(&&&None), "{declared:#?}");
    Ok(())
}
