//! The whole artifact: objects, manifest and the generated Rust beside them.

use anyhow::{Context, Result};
use laminar_xdp_prebuilt::{Manifest, ObjectEntry, abi, sha256_hex};

use crate::bindings;
use crate::compile::Compiler;
use crate::inspect::inspect;
use crate::project::Project;
use crate::targets::Targets;
use crate::verify::verify;

pub struct ArtifactSet {
    pub manifest: Manifest,
    /// In the manifest's order.
    pub objects: Vec<Vec<u8>>,
    /// Path and content of the generated Rust files.
    pub generated: [(&'static str, String); 2],
}

impl ArtifactSet {
    pub fn build(project: &Project, targets: &Targets, compiler: &Compiler) -> Result<ArtifactSet> {
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
                    facts.program.instructions
                );
                manifest.objects.push(ObjectEntry {
                    file,
                    sha256: sha256_hex(&object),
                    target: target.name.clone(),
                    byte_order,
                    abi_version: abi::LAMINAR_ABI_VERSION,
                    since: target.since.clone(),
                    requires: target.requires.clone(),
                    compiler: compiler.name(),
                    flags: Compiler::flags(target, byte_order),
                    license: facts.license,
                    program: facts.program,
                    maps: facts.maps,
                });
                objects.push(object);
            }
        }
        let generated = [
            (Project::BINDINGS, bindings::abi(project)?),
            (Project::EMBEDDED, bindings::embedded(&manifest)?),
        ];
        let generated_text = generated.iter().map(|(_, text)| text.as_bytes().to_vec());
        manifest.sources_sha256 = digest(project, generated_text)?;
        Ok(ArtifactSet { manifest, objects, generated })
    }

    /// The manifest's text.
    pub fn manifest_text(&self) -> Result<String> {
        let header = "# Written by `make bpf`. MANIFEST.md says what each field means.\n\n";
        Ok(header.to_string() + &self.manifest.to_toml()?)
    }

    /// Replaces what `bpf-prebuilt/` holds.
    pub fn write(&self, project: &Project) -> Result<()> {
        let shell = &project.shell;
        for stale in shell.read_dir(Project::ARTIFACT)? {
            if stale.extension().is_some_and(|extension| extension == "o") {
                shell.remove_path(stale)?;
            }
        }
        for (entry, object) in self.manifest.objects.iter().zip(&self.objects) {
            shell.write_file(format!("{}/{}", Project::ARTIFACT, entry.file), object)?;
        }
        for (path, text) in &self.generated {
            shell.write_file(path, text)?;
        }
        shell.write_file(manifest_path(), self.manifest_text()?)?;
        Ok(())
    }
}

pub fn manifest_path() -> String {
    format!("{}/{}", Project::ARTIFACT, Manifest::FILE_NAME)
}

/// Whether `bpf-prebuilt/` is what the sources as they are would give.
pub fn is_current(project: &Project) -> Result<bool> {
    let Some(text) = project.read_if_there(&manifest_path())? else { return Ok(false) };
    let Ok(manifest) = Manifest::parse(&String::from_utf8_lossy(&text)) else { return Ok(false) };
    let mut generated = Vec::new();
    for path in [Project::BINDINGS, Project::EMBEDDED] {
        generated.push(project.read_if_there(path)?.unwrap_or_default());
    }
    for entry in &manifest.objects {
        let path = format!("{}/{}", Project::ARTIFACT, entry.file);
        match project.read_if_there(&path)? {
            Some(object) if entry.verify(&object).is_ok() => {}
            _ => return Ok(false),
        }
    }
    Ok(manifest.sources_sha256 == digest(project, generated)?)
}

/// SHA-256 over the sources, the producer itself and what was generated. The
/// compiler's version is one of the sources.
fn digest(project: &Project, generated: impl IntoIterator<Item = Vec<u8>>) -> Result<String> {
    let mut digests = String::new();
    for folder in [Project::SOURCES, Project::PRODUCER] {
        for path in project.shell.read_dir(folder)? {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            digests += &format!("{name} {}\n", sha256_hex(&project.shell.read_binary_file(&path)?));
        }
    }
    for text in generated {
        digests += &sha256_hex(&text);
    }
    Ok(sha256_hex(digests.as_bytes()))
}
