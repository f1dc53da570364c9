//! Records a run in `bpf-prebuilt/executed.toml`. `make check` compares the objects'
//! claims with this file.

use std::fs;

use anyhow::{Context, Result, ensure};
use laminar_xdp_prebuilt::Manifest;

use crate::executed::{Executed, ExecutedGap, ExecutedKernel, ExecutedObject, objects_digest};
use crate::image::checkout;
use crate::report::{Run, upstream};
use crate::resolve::Gap;

/// Records the kernels of `runs`. Every check must have passed on each of these kernels. Keeps the
/// records of other kernels.
///
/// `gaps` are the gaps of a complete run, and replace the recorded gaps. A run of named kernels
/// does not look for other kernels. Such a run passes `None`, and the recorded gaps stay.
///
/// The caller must read `manifest` before it builds the images. Fails if the manifest has changed
/// since then, because the run did not execute the changed objects.
pub fn write(runs: &[Run], gaps: Option<&[Gap]>, manifest: &Manifest) -> Result<()> {
    ensure!(
        read_manifest()? == *manifest,
        "bpf-prebuilt/ changed during the run, so nothing is recorded: run `make matrix` again"
    );
    let path = checkout().join("bpf-prebuilt").join(Executed::FILE_NAME);
    let mut executed = match fs::exists(&path)? {
        true => Executed::parse(&fs::read_to_string(&path)?)?,
        false => Executed::default(),
    };
    update(&mut executed, runs, gaps, manifest)?;
    fs::write(&path, executed.to_toml()?).with_context(|| path.display().to_string())
}

fn update(
    executed: &mut Executed,
    runs: &[Run],
    gaps: Option<&[Gap]>,
    manifest: &Manifest,
) -> Result<()> {
    for run in runs {
        executed.add(executed_kernel(run, manifest).with_context(|| run.kernel.clone())?);
    }
    executed.remove_outdated(manifest);
    if let Some(gaps) = gaps {
        let objects_sha256 = objects_digest(manifest);
        let executed_gap = |gap: &Gap| ExecutedGap {
            kernel: gap.kernel.clone(),
            architecture: gap.architecture,
            reason: gap.reason.clone(),
            objects_sha256: objects_sha256.clone(),
        };
        executed.gaps = gaps.iter().map(executed_gap).collect();
    }
    Ok(())
}

/// Reads the manifest of the checkout, and checks that each object has the listed checksum.
pub fn read_manifest() -> Result<Manifest> {
    let folder = checkout().join("bpf-prebuilt");
    let manifest = Manifest::parse(&fs::read_to_string(folder.join(Manifest::FILE_NAME))?)?;
    for entry in &manifest.objects {
        entry.verify(&fs::read(folder.join(&entry.file)).with_context(|| entry.file.clone())?)?;
    }
    Ok(manifest)
}

fn executed_kernel(run: &Run, manifest: &Manifest) -> Result<ExecutedKernel> {
    let objects = run.selection["objects"].as_array().context("the selection has no objects")?;
    let object = |object: &serde_json::Value| -> Result<ExecutedObject> {
        let text = |key: &str| {
            object[key]
                .as_str()
                .map(String::from)
                .context("a field of the selection is not a string")
        };
        let file = text("file")?;
        let entry = manifest.objects.iter().find(|entry| entry.file == file);
        let entry = entry.with_context(|| format!("the manifest does not list {file}"))?;
        let sha256 = entry.sha256.clone();
        Ok(ExecutedObject { file, sha256, native: text("native")?, generic: text("generic")? })
    };
    Ok(ExecutedKernel {
        name: run.kernel.clone(),
        version: upstream(&run.version).into(),
        package: format!("{} {}", run.package, run.version),
        architecture: run.architecture.to_string(),
        checks: run.checks.len(),
        objects: objects.iter().map(object).collect::<Result<_>>()?,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::kernels::Architecture;

    fn run(kernel: &str, version: &str) -> Run {
        let file = &read_manifest().unwrap().objects[0].file;
        Run {
            kernel: kernel.into(),
            architecture: Architecture::Amd64,
            package: format!("linux-image-{version}"),
            version: format!("{version}-1"),
            seconds: 1,
            failure: None,
            checks: [("a::check".to_string(), true)].into(),
            selection: json!({
                "objects": [{ "file": file, "native": "steers", "generic": "filters" }]
            }),
        }
    }

    fn gap() -> Gap {
        let (kernel, reason) = ("newest of a-suite".into(), "no kernel".into());
        Gap { kernel, architecture: Architecture::S390x, reason }
    }

    #[test]
    fn a_run_records_versions_and_gaps() {
        let (manifest, mut executed) = (read_manifest().unwrap(), Executed::default());
        let runs = [run("7.3", "7.3.4"), run("6.18", "6.18.15")];
        update(&mut executed, &runs, Some(&[gap()]), &manifest).unwrap();
        let text = executed.to_toml().unwrap();
        assert_eq!(Executed::parse(&text).unwrap(), executed);
        let versions: Vec<_> = executed.kernels.iter().map(|kernel| &*kernel.version).collect();
        assert_eq!(versions, ["6.18.15", "7.3.4"]);
        assert_eq!(executed.kernels[1].package, "linux-image-7.3.4 7.3.4-1");
        assert_eq!(executed.gaps[0].objects_sha256, objects_digest(&manifest));

        // A later complete run without gaps removes the gaps, but keeps the kernels whose series
        // have left the mirror.
        update(&mut executed, &[run("7.4", "7.4.1")], Some(&[]), &manifest).unwrap();
        let names: Vec<_> = executed.kernels.iter().map(|kernel| &*kernel.name).collect();
        assert_eq!((names, executed.gaps.len()), (vec!["6.18", "7.3", "7.4"], 0));
    }

    #[test]
    fn a_run_of_named_kernels_keeps_the_recorded_gaps() {
        let (manifest, mut executed) = (read_manifest().unwrap(), Executed::default());
        update(&mut executed, &[], Some(&[gap()]), &manifest).unwrap();
        update(&mut executed, &[run("7.3", "7.3.4")], None, &manifest).unwrap();
        assert_eq!((executed.kernels.len(), executed.gaps.len()), (1, 1));
    }

    #[test]
    fn kernels_that_executed_only_former_objects_are_removed() {
        let (mut manifest, mut executed) = (read_manifest().unwrap(), Executed::default());
        update(&mut executed, &[run("7.3", "7.3.4")], Some(&[]), &manifest).unwrap();
        manifest.objects.iter_mut().for_each(|object| object.sha256 = "other".into());
        update(&mut executed, &[run("7.4", "7.4.1")], Some(&[]), &manifest).unwrap();
        let names: Vec<_> = executed.kernels.iter().map(|kernel| &*kernel.name).collect();
        assert_eq!(names, ["7.4"]);
    }
}
