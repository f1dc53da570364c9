//! Checks that the checked-in artifact is what the current sources compile to.

use anyhow::{Context, Result, bail};
use laminar_xdp_prebuilt::{Manifest, ObjectEntry};

use crate::compile::Compiler;
use crate::inspect::{ElfFacts, inspect};
use crate::project::Project;
use crate::set::ArtifactSet;
use crate::targets::Targets;

/// Builds the artifact again and compares it with the checked-in files. With the pinned compiler it
/// compares all bytes. With another compiler it compares only instructions, global data, maps,
/// licence and the fields of the manifest that do not depend on the compiler.
pub fn check(project: &Project, targets: &Targets) -> Result<()> {
    let compiler = Compiler::find(project)?;
    let set = ArtifactSet::build(project, targets, &compiler)?;
    let pinned = compiler.version == targets.compiler;

    let manifest = project.read_if_exists(Project::MANIFEST)?.unwrap_or_default();
    let manifest = String::from_utf8(manifest).context(Project::MANIFEST)?;
    let mut differences = match pinned {
        true => compare_bytes(project, &set, &manifest)?,
        false => compare_meaning(project, &set, &Manifest::parse(&manifest)?)?,
    };
    if project.read_if_exists(Project::EMBEDDED)?.as_deref() != Some(set.embedded.as_bytes()) {
        differences.push(format!("{} is not the result of bpf-src/", Project::EMBEDDED));
    }
    for path in project.files(Project::ARTIFACT, &["o"])? {
        let name = path.file_name().unwrap_or_default();
        if !set.manifest.objects.iter().any(|object| name == object.file.as_str()) {
            differences.push(format!("no target builds {}", path.display()));
        }
    }

    let how = match pinned {
        true => format!("byte for byte, clang {}", compiler.version),
        false => format!(
            "instructions instead of bytes, because this is clang {} and not the pinned {}",
            compiler.version, targets.compiler
        ),
    };
    if !differences.is_empty() {
        let advice = match pinned {
            true => "run `make bpf` and commit",
            false => {
                "another compiler may emit other instructions; only the pinned compiler decides"
            }
        };
        bail!("compared {how}:\n  {}\n{advice}", differences.join("\n  "));
    }
    println!("bpf-prebuilt/ is the result of bpf-src/ ({how}; {} objects)", set.objects.len());
    Ok(())
}

fn path_of(entry: &ObjectEntry) -> String {
    format!("{}/{}", Project::ARTIFACT, entry.file)
}

fn compare_bytes(project: &Project, set: &ArtifactSet, manifest: &str) -> Result<Vec<String>> {
    let mut differences = Vec::new();
    for (entry, built) in set.manifest.objects.iter().zip(&set.objects) {
        if project.read_if_exists(&path_of(entry))?.as_ref() != Some(built) {
            differences.push(format!("{} is missing, or its bytes differ", path_of(entry)));
        }
    }
    if manifest != set.manifest_text()? {
        differences.push(format!("{} is not the result of bpf-src/", Project::MANIFEST));
    }
    Ok(differences)
}

fn compare_meaning(project: &Project, set: &ArtifactSet, listed: &Manifest) -> Result<Vec<String>> {
    let mut differences = Vec::new();
    for (entry, built) in set.manifest.objects.iter().zip(&set.objects) {
        let path = path_of(entry);
        let checked_in =
            project.read_if_exists(&path)?.with_context(|| format!("{path} is missing"))?;
        let (facts, built) = (inspect(&checked_in).with_context(|| path.clone())?, inspect(built)?);
        let meaning = |facts: &ElfFacts| {
            let ElfFacts { instructions, global_data, maps, license, .. } = facts;
            (instructions.clone(), global_data.clone(), maps.clone(), license.clone())
        };
        if meaning(&facts) != meaning(&built) {
            differences.push(format!("{path} differs in instructions, data, maps or licence"));
        }
        let listed = listed.objects.iter().find(|other| other.file == entry.file);
        // `sha256`, `compiler` and `programs` depend on the compiler, so their expected values
        // come from the checked-in object and its entry. All other fields must be equal.
        let expected = listed.map(|listed| ObjectEntry {
            sha256: listed.sha256.clone(),
            compiler: listed.compiler.clone(),
            programs: facts.programs,
            ..entry.clone()
        });
        if listed != expected.as_ref()
            || listed.is_none_or(|entry| entry.verify(&checked_in).is_err())
        {
            differences.push(format!("{path} differs from its entry in {}", Project::MANIFEST));
        }
    }
    if listed.default_target != set.manifest.default_target {
        differences.push(format!("{} has another default target", Project::MANIFEST));
    }
    Ok(differences)
}
