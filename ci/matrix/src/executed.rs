//! On which kernels the objects were last executed: what claims are worth.

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// What `executed.toml` says. It lies beside the manifest, in the repository only: a
/// loader has no use for it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Executed {
    /// The kernels, oldest first.
    #[serde(rename = "kernel", default)]
    pub kernels: Vec<ExecutedKernel>,
}

/// A kernel that was booted, and on which every check of the matrix went well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExecutedKernel {
    /// The matrix's name for it.
    pub name: String,
    /// Its version, as in `6.12.117`.
    pub version: String,
    /// The package that it came in, with its version.
    pub package: String,
    /// The machine, as Debian names it.
    pub architecture: String,
    /// How many checks it passed.
    pub checks: usize,
    /// What the objects of its byte order did on it.
    #[serde(rename = "object")]
    pub objects: Vec<ExecutedObject>,
}

/// What one object did on one kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExecutedObject {
    /// The object's file.
    pub file: String,
    /// SHA-256 of the bytes that were executed.
    pub sha256: String,
    /// What it does in native mode: `steers`, `filters` or `refused`; an object for
    /// sockets `chooses` behind XDP in any mode.
    pub native: String,
    /// The same in generic mode.
    pub generic: String,
}

impl Executed {
    /// Its name in the folder of the objects.
    pub const FILE_NAME: &'static str = "executed.toml";

    pub fn parse(text: &str) -> Result<Executed> {
        toml::from_str(text).context(Executed::FILE_NAME)
    }

    pub fn to_toml(&self) -> Result<String> {
        Ok(format!(
            "# Written by `make matrix` after a run in which every check went well.\n\n{}",
            toml::to_string(self)?
        ))
    }
}

impl ExecutedKernel {
    /// Major and minor number of its version, by which it belongs to a range.
    pub fn release(&self) -> (u32, u32) {
        release(&self.version)
    }
}

/// Major and minor number of a kernel's version.
///
/// # Panics
/// If it has none: every version here comes out of a file of this repository.
pub fn release(version: &str) -> (u32, u32) {
    let mut numbers = version.split('.').map(|number| number.parse().ok());
    match (numbers.next(), numbers.next()) {
        (Some(Some(major)), Some(Some(minor))) => (major, minor),
        _ => panic!("{version:?} is no version of Linux"),
    }
}
