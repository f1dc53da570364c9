//! `bpf-prebuilt/executed.toml`: the kernels that executed the objects.

use anyhow::{Context, Result};
use laminar_xdp_prebuilt::{Manifest, sha256_hex};
use serde::{Deserialize, Serialize};

use crate::kernels::Architecture;
use crate::release::Release;

/// The whole file. It is in the repository only, because a loader has no use for it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Executed {
    /// Kernels that the last complete run wanted and the mirror did not have.
    #[serde(rename = "gap", default)]
    pub gaps: Vec<ExecutedGap>,
    /// The kernels, oldest first.
    #[serde(rename = "kernel", default)]
    pub kernels: Vec<ExecutedKernel>,
}

/// A kernel that a run wanted and the mirror did not have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExecutedGap {
    /// A series, or the rank in a suite.
    pub kernel: String,
    /// The architecture, by Debian's name.
    pub architecture: Architecture,
    pub reason: String,
    /// The digest of the objects that the run executed on the other kernels. The gap says
    /// nothing about other objects.
    pub objects_sha256: String,
}

/// A kernel that was booted, and on which every check passed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExecutedKernel {
    /// The matrix's name for the kernel.
    pub name: String,
    /// The kernel's version, such as `6.12.117`.
    pub version: String,
    /// The name and version of the kernel's package.
    pub package: String,
    /// The architecture, by Debian's name.
    pub architecture: String,
    /// The number of checks that passed.
    pub checks: usize,
    /// What each object of the kernel's byte order did.
    #[serde(rename = "object")]
    pub objects: Vec<ExecutedObject>,
}

/// What one object did on one kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExecutedObject {
    /// The object's file.
    pub file: String,
    /// SHA-256 of the bytes that the kernel executed.
    pub sha256: String,
    /// What the object did in native mode: `steers`, `filters` or `refused`. An object for
    /// sockets `chooses`, whatever the mode of XDP is.
    pub native: String,
    /// The same in generic mode.
    pub generic: String,
}

impl Executed {
    /// The name of the file in the folder of the objects.
    pub const FILE_NAME: &'static str = "executed.toml";

    pub fn parse(text: &str) -> Result<Executed> {
        let executed: Executed = toml::from_str(text).context(Executed::FILE_NAME)?;
        for kernel in &executed.kernels {
            Release::of_version(&kernel.version).context(Executed::FILE_NAME)?;
        }
        Ok(executed)
    }

    pub fn to_toml(&self) -> Result<String> {
        Ok(format!(
            "# Written by `make matrix` after a run in which every check passed.\n\n{}",
            toml::to_string(self)?
        ))
    }

    /// Adds a kernel, or replaces its former entry.
    pub fn add(&mut self, kernel: ExecutedKernel) {
        self.kernels.retain(|other| other.name != kernel.name);
        self.kernels.push(kernel);
        self.kernels.sort_by_key(|kernel| (kernel.release(), kernel.name.clone()));
    }

    /// Removes the kernels that executed no object of `manifest`. A backports series that
    /// left the mirror stays until the objects change.
    pub fn remove_outdated(&mut self, manifest: &Manifest) {
        let is_current = |executed: &ExecutedObject| {
            manifest.objects.iter().any(|object| object.sha256 == executed.sha256)
        };
        self.kernels.retain(|kernel| kernel.objects.iter().any(is_current));
    }
}

impl ExecutedKernel {
    /// The kernel's release. [`Executed::parse`] checked the version.
    pub fn release(&self) -> Release {
        Release::of_version(&self.version).expect("a version with a release")
    }
}

/// The digest of all objects of a manifest.
pub fn objects_digest(manifest: &Manifest) -> String {
    let objects: String = manifest.objects.iter().map(|object| object.sha256.as_str()).collect();
    sha256_hex(objects.as_bytes())
}
