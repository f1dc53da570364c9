//! The artifact: the objects, their manifest and the generated Rust code.

use anyhow::{Context, Result};
use laminar_xdp_prebuilt::{Manifest, ObjectEntry, abi, sha256_hex};

use crate::bindings;
use crate::compile::Compiler;
use crate::digest;
use crate::inspect::inspect;
use crate::project::Project;
use crate::targets::Targets;
use crate::verify::verify;

pub struct ArtifactSet {
    pub manifest: Manifest,
    /// The bytes of each object, in the order of the manifest.
    pub objects: Vec<Vec<u8>>,
    /// The text of `embedded.rs`.
    pub embedded: String,
}

impl ArtifactSet {
    /// Compiles and verifies every object of `targets`. Writes nothing to `bpf-prebuilt/`.
    pub fn build(project: &Project, targets: &Targets, compiler: &Compiler) -> Result<ArtifactSet> {
        bindings::check_abi(project)?;
        let mut manifest = Manifest {
            format_version: Manifest::FORMAT_VERSION,
            default_target: targets.default.clone(),
            sources_sha256: String::new(),
            objects: Vec::new(),
        };
        let mut objects = Vec::new();
        for target in &targets.list {
            for &byte_order in &targets.byte_orders {
                let file = target.file(byte_order);
                let object = compiler.compile(project, target, byte_order)?;
                let facts = inspect(&object).with_context(|| file.clone())?;
                verify(&facts, target, byte_order).with_context(|| file.clone())?;
                println!(
                    "{file}: {} bytes, {} instructions, verified",
                    object.len(),
                    facts.programs.iter().map(|program| program.instructions).sum::<u32>()
                );
                manifest.objects.push(ObjectEntry {
                    file,
                    sha256: sha256_hex(&object),
                    layer: target.layer,
                    target: target.name.clone(),
                    byte_order,
                    abi_version: abi::LAMINAR_ABI_VERSION,
                    since: target.since.clone(),
                    requires: target.requires.clone(),
                    compiler: compiler.name(),
                    flags: Compiler::flags(target, byte_order),
                    license: facts.license,
                    programs: facts.programs,
                    maps: facts.maps,
                });
                objects.push(object);
            }
        }
        let embedded = bindings::embedded(&manifest)?;
        manifest.sources_sha256 = digest::of(project, &manifest, &embedded)?;
        Ok(ArtifactSet { manifest, objects, embedded })
    }

    /// The text of the manifest.
    pub fn manifest_text(&self) -> Result<String> {
        let header = "# Written by `make bpf`. MANIFEST.md describes each field.\n\n";
        Ok(header.to_string() + &self.manifest.to_toml()?)
    }

    /// Writes the objects, the manifest and `embedded.rs` to `bpf-prebuilt/`, and removes objects
    /// that no target builds.
    pub fn write(&self, project: &Project) -> Result<()> {
        let shell = &project.shell;
        for stale in project.files(Project::ARTIFACT, &["o"])? {
            shell.remove_path(stale)?;
        }
        for (entry, object) in self.manifest.objects.iter().zip(&self.objects) {
            shell.write_file(format!("{}/{}", Project::ARTIFACT, entry.file), object)?;
        }
        shell.write_file(Project::EMBEDDED, &self.embedded)?;
        shell.write_file(Project::MANIFEST, self.manifest_text()?)?;
        Ok(())
    }
}
