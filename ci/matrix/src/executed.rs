//! `bpf-prebuilt/executed.toml`: the kernels that executed the objects.

use anyhow::{Context, Result};
use laminar_xdp_prebuilt::{Manifest, sha256_hex};
use serde::{Deserialize, Serialize};

use crate::kernels::Architecture;
use crate::release::Release;

/// The whole file. Packages do not install this file, because a loader does not need it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Executed {
    /// Kernels that the last complete run should have booted, but that the mirror did not have.
    #[serde(rename = "gap", default)]
    pub gaps: Vec<ExecutedGap>,
    /// The kernels, oldest first.
    #[serde(rename = "kernel", default)]
    pub kernels: Vec<ExecutedKernel>,
}

/// A kernel that a run should have booted, but that the mirror did not have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExecutedGap {
    /// A series, or a rank in a backports suite such as `newest of trixie-backports`.
    pub kernel: String,
    /// The architecture, by Debian's name.
    pub architecture: Architecture,
    pub reason: String,
    /// The digest of the objects in that run ([`objects_digest`]). The gap says nothing about
    /// other versions of the objects.
    pub objects_sha256: String,
}

/// A kernel that was booted, and on which every check passed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExecutedKernel {
    /// The matrix's name for the kernel ([`crate::kernels::KernelName`]).
    pub name: String,
    /// The kernel's version, such as `6.12.117`.
    pub version: String,
    /// The name and version of the kernel's package.
    pub package: String,
    /// The architecture, by Debian's name.
    pub architecture: String,
    /// The number of checks that passed.
    pub checks: usize,
    /// The result of each object in the kernel's byte order.
    #[serde(rename = "object")]
    pub objects: Vec<ExecutedObject>,
}

/// The result of one object on one kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExecutedObject {
    /// The object's file.
    pub file: String,
    /// SHA-256 of the bytes that the kernel executed.
    pub sha256: String,
    /// The result in native mode: `steers`, `filters` or `refused`. A sockets object has no
    /// mode; its result is `chooses` in both fields.
    pub native: String,
    /// The result in generic mode.
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

    /// Adds a kernel, or replaces the entry with the same name.
    pub fn add(&mut self, kernel: ExecutedKernel) {
        self.kernels.retain(|other| other.name != kernel.name);
        self.kernels.push(kernel);
        self.kernels.sort_by_key(|kernel| (kernel.release(), kernel.name.clone()));
    }

    /// Removes the kernels that executed none of the objects in `manifest`. A kernel whose series
    /// has left the mirror therefore stays recorded until all objects have changed.
    pub fn remove_outdated(&mut self, manifest: &Manifest) {
        let is_current = |executed: &ExecutedObject| {
            manifest.objects.iter().any(|object| object.sha256 == executed.sha256)
        };
        self.kernels.retain(|kernel| kernel.objects.iter().any(is_current));
    }
}

impl ExecutedKernel {
    /// The kernel's release. This function cannot fail, because [`Executed::parse`] checked the
    /// version.
    pub fn release(&self) -> Release {
        Release::of_version(&self.version).expect("a version with a release")
    }
}

/// Returns a digest over the SHA-256 of every object in a manifest.
pub fn objects_digest(manifest: &Manifest) -> String {
    let objects: String = manifest.objects.iter().map(|object| object.sha256.as_str()).collect();
    sha256_hex(objects.as_bytes())
}
