//! The packages and crates of the workspace, from `cargo metadata`.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

/// A cargo workspace.
#[derive(Debug, Deserialize)]
pub struct Workspace {
    /// The folder of the workspace.
    #[serde(rename = "workspace_root")]
    pub root: PathBuf,
    /// The folder of cargo's build output.
    pub target_directory: PathBuf,
    /// The packages of the workspace.
    pub packages: Vec<Package>,
}

/// A package of the workspace.
#[derive(Debug, Deserialize)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// The `rust-version` of the package's manifest.
    pub rust_version: Option<String>,
    /// The package's crates: a library, programs, examples, tests, a build script.
    pub targets: Vec<Target>,
}

/// A crate of a package.
#[derive(Debug, Deserialize)]
pub struct Target {
    /// Its name.
    pub name: String,
    /// The kind of crate, in cargo's words: `lib`, `bin`, `test` and so on.
    pub kind: Vec<String>,
    /// The file of its root module.
    pub src_path: PathBuf,
}

impl Workspace {
    /// Runs `cargo metadata` for the workspace that contains the current folder. Cargo runs this
    /// crate's tests in the crate's folder, so the tests read this repository's workspace. Needs no
    /// network.
    pub fn read() -> Result<Workspace> {
        let output = cargo()
            .args(["metadata", "--no-deps", "--format-version=1"])
            .output()
            .context("cargo metadata")?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "cargo metadata: {errors}");
        serde_json::from_slice(&output.stdout).context("parse the output of cargo metadata")
    }
}

/// Returns a command for the cargo that started this program, or for the cargo in PATH.
pub(crate) fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}
