//! Whether what is checked in is what the sources give.

use anyhow::{Context, Result, bail};
use laminar_xdp_prebuilt::{Manifest, ObjectEntry};

use crate::compile::Compiler;
use crate::inspect::{ElfFacts, inspect};
use crate::project::Project;
use crate::set::{ArtifactSet, manifest_path};
use crate::targets::Targets;

/// Rebuilds everything and compares: byte for byte with the pinned compiler. With
/// another it compares instructions, global data and all that the manifest says.
pub fn check(project: &Project, targets: &Targets) -> Result<()> {
    let compiler = Compiler::find(project)?;
    let set = ArtifactSet::build(project, targets, &compiler)?;
    let pinned = compiler.version == targets.compiler;

    let manifest = project.read_if_there(&manifest_path())?.unwrap_or_default();
    let manifest = String::from_utf8(manifest).context(manifest_path())?;
    let mut differences = match pinned {
        true => compare_bytes(project, &set, &manifest)?,
        false => compare_meaning(project, &set, &Manifest::parse(&manifest)?)?,
    };
    if project.read_if_there(Project::EMBEDDED)?.as_deref() != Some(set.embedded.as_bytes()) {
        differences.push(format!("{} is not what bpf-src/ gives", Project::EMBEDDED));
    }
    for path in project.files(Project::ARTIFACT, &["o"])? {
        let name = path.file_name().unwrap_or_default();
        if !set.manifest.objects.iter().any(|object| name == object.file.as_str()) {
            differences.push(format!("{} is built by no target", path.display()));
        }
    }

    let how = match pinned {
        true => format!("byte for byte, clang {}", compiler.version),
        false => format!(
            "instructions, not bytes, because this is clang {} and not the pinned {}",
            compiler.version, targets.compiler
        ),
    };
    if !differences.is_empty() {
        let advice = match pinned {
            true => "run `make bpf` and commit",
            false => "compilers may choose other instructions: only the pinned one's answer counts",
        };
        bail!("compared {how}:\n  {}\n{advice}", differences.join("\n  "));
    }
    println!("bpf-prebuilt/ is what bpf-src/ gives ({how}; {} objects)", set.objects.len());
    Ok(())
}

fn path_of(entry: &ObjectEntry) -> String {
    format!("{}/{}", Project::ARTIFACT, entry.file)
}

fn compare_bytes(project: &Project, set: &ArtifactSet, manifest: &str) -> Result<Vec<String>> {
    let mut differences = Vec::new();
    for (entry, built) in set.manifest.objects.iter().zip(&set.objects) {
        if project.read_if_there(&path_of(entry))?.as_ref() != Some(built) {
            differences.push(format!("{} is missing, or its bytes differ", path_of(entry)));
        }
    }
    if manifest != set.manifest_text()? {
        differences.push(format!("{} is not what bpf-src/ gives", manifest_path()));
    }
    Ok(differences)
}

fn compare_meaning(project: &Project, set: &ArtifactSet, listed: &Manifest) -> Result<Vec<String>> {
    let mut differences = Vec::new();
    for (entry, built) in set.manifest.objects.iter().zip(&set.objects) {
        let path = path_of(entry);
        let there = project.read_if_there(&path)?.with_context(|| format!("{path} is missing"))?;
        let (facts, built) = (inspect(&there).with_context(|| path.clone())?, inspect(built)?);
        let meaning = |of: &ElfFacts| {
            (of.instructions.clone(), of.global_data.clone(), of.maps.clone(), of.license.clone())
        };
        if meaning(&facts) != meaning(&built) {
            differences.push(format!("{path} differs in instructions, data, maps or licence"));
        }
        let vouched = listed.objects.iter().find(|other| other.file == entry.file);
        // What another compiler cannot know is taken from what is there, and the
        // rest must be the same.
        let expected = vouched.map(|vouched| ObjectEntry {
            sha256: vouched.sha256.clone(),
            compiler: vouched.compiler.clone(),
            programs: facts.programs,
            ..entry.clone()
        });
        if vouched != expected.as_ref() || vouched.is_none_or(|v| v.verify(&there).is_err()) {
            differences.push(format!("{path} is not what {} says", manifest_path()));
        }
    }
    if listed.default_target != set.manifest.default_target {
        differences.push(format!("{} has another default target", manifest_path()));
    }
    Ok(differences)
}
