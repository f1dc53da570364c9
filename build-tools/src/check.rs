//! Whether what is checked in is what the sources give.

use anyhow::{Context, Result, bail};
use laminar_xdp_prebuilt::Manifest;

use crate::compile::Compiler;
use crate::inspect::inspect;
use crate::project::Project;
use crate::set::{ArtifactSet, manifest_path};
use crate::targets::Targets;

/// Rebuilds everything and compares: byte for byte with the pinned compiler,
/// instruction for instruction with another.
pub fn check(project: &Project, targets: &Targets) -> Result<()> {
    let compiler = Compiler::find(project)?;
    let set = ArtifactSet::build(project, targets, &compiler)?;
    let pinned = compiler.version == targets.compiler;

    let mut differences = Vec::new();
    for (entry, built) in set.manifest.objects.iter().zip(&set.objects) {
        let path = format!("{}/{}", Project::ARTIFACT, entry.file);
        match project.read_if_there(&path)? {
            None => differences.push(format!("{path} is missing")),
            Some(there) if pinned && there == *built => {}
            Some(_) if pinned => differences.push(format!("{path} differs in its bytes")),
            Some(there) => {
                let there = inspect(&there).with_context(|| path.clone())?;
                if there.instructions != inspect(built)?.instructions {
                    differences.push(format!("{path} differs in its instructions"));
                }
            }
        }
    }
    for (path, text) in &set.generated {
        if project.read_if_there(path)?.as_deref() != Some(text.as_bytes()) {
            differences.push(format!("{path} is not what bpf-src/ gives"));
        }
    }
    // Another compiler gives another manifest: its hashes differ.
    if pinned {
        let text = project.read_if_there(&manifest_path())?;
        if text.as_deref() != Some(set.manifest_text()?.as_bytes()) {
            differences.push(format!("{} is not what bpf-src/ gives", manifest_path()));
        }
    }
    differences.extend(unlisted_objects(project, &set.manifest)?);

    let how = match pinned {
        true => format!("byte for byte, clang {}", compiler.version),
        false => format!(
            "instructions only, because this is clang {} and not the pinned {}",
            compiler.version, targets.compiler
        ),
    };
    if !differences.is_empty() {
        bail!("compared {how}:\n  {}\nrun `make bpf` and commit", differences.join("\n  "));
    }
    println!("bpf-prebuilt/ is what bpf-src/ gives ({how}; {} objects)", set.objects.len());
    Ok(())
}

fn unlisted_objects(project: &Project, manifest: &Manifest) -> Result<Vec<String>> {
    let paths = project.shell.read_dir(Project::ARTIFACT)?;
    let objects = paths.iter().filter(|path| path.extension().is_some_and(|e| e == "o"));
    let names = objects.filter_map(|path| path.file_name()?.to_str());
    let unlisted = names.filter(|name| !manifest.objects.iter().any(|o| o.file == *name));
    Ok(unlisted
        .map(|name| format!("{name} lies in bpf-prebuilt/ but no target builds it"))
        .collect())
}
