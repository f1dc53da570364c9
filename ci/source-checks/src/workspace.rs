//! The workspace, as cargo sees it.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

/// A workspace.
#[derive(Debug, Deserialize)]
pub struct Workspace {
    /// Its folder.
    #[serde(rename = "workspace_root")]
    pub root: PathBuf,
    /// The folder of everything that cargo builds.
    pub target_directory: PathBuf,
    /// Its packages.
    pub packages: Vec<Package>,
}

/// A package of the workspace.
#[derive(Debug, Deserialize)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// The oldest Rust that it declares to compile with.
    pub rust_version: Option<String>,
    /// Its crates: a library, programs, examples, tests, a build script.
    pub targets: Vec<Target>,
}

/// A crate of a package.
#[derive(Debug, Deserialize)]
pub struct Target {
    /// Its name.
    pub name: String,
    /// What it is, in cargo's words: `lib`, `bin`, `test` and so on.
    pub kind: Vec<String>,
    /// The file of its root module.
    pub src_path: PathBuf,
}

impl Workspace {
    /// Asks cargo for the workspace of the working folder, which is this crate's folder in its
    /// tests. Needs no network.
    pub fn read() -> Result<Workspace> {
        let output = cargo()
            .args(["metadata", "--no-deps", "--format-version=1"])
            .output()
            .context("cargo metadata")?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "cargo metadata: {errors}");
        serde_json::from_slice(&output.stdout).context("the answer of cargo metadata")
    }
}

/// The cargo that runs this program.
pub(crate) fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}
