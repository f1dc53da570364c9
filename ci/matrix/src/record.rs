//! `bpf-prebuilt/executed.toml`: which objects were executed on which kernels.
//! `make check` holds the targets' claims against it.

use std::fs;

use anyhow::{Context, Result, ensure};
use laminar_xdp_prebuilt::Manifest;

use crate::executed::{Executed, ExecutedKernel, ExecutedObject};
use crate::image::checkout;
use crate::report::{Run, upstream};

/// Records runs in which every check went well; those of other kernels stay. The
/// checksums are those of `manifest`, which was read before the images were built and
/// must not have changed since.
pub fn write(runs: &[Run], manifest: &Manifest) -> Result<()> {
    ensure!(
        read_manifest()? == *manifest,
        "bpf-prebuilt/ has changed since the kernels were started: nothing is recorded, run it again"
    );
    let path = checkout().join("bpf-prebuilt").join(Executed::FILE_NAME);
    let mut executed = match fs::exists(&path)? {
        true => Executed::parse(&fs::read_to_string(&path)?)?,
        false => Executed::default(),
    };
    for run in runs {
        let kernel = kernel(run, manifest).with_context(|| run.kernel.clone())?;
        executed.kernels.retain(|other| other.name != kernel.name);
        executed.kernels.push(kernel);
    }
    executed.kernels.sort_by_key(|kernel| (kernel.release(), kernel.name.clone()));
    fs::write(&path, executed.to_toml()?).with_context(|| path.display().to_string())
}

/// The manifest of the checkout, after checking that its objects are what it says.
pub fn read_manifest() -> Result<Manifest> {
    let folder = checkout().join("bpf-prebuilt");
    let manifest = Manifest::parse(&fs::read_to_string(folder.join(Manifest::FILE_NAME))?)?;
    for entry in &manifest.objects {
        entry.verify(&fs::read(folder.join(&entry.file)).with_context(|| entry.file.clone())?)?;
    }
    Ok(manifest)
}

fn kernel(run: &Run, manifest: &Manifest) -> Result<ExecutedKernel> {
    let objects = run.selection["objects"].as_array().context("the machine named no objects")?;
    let object = |object: &serde_json::Value| -> Result<ExecutedObject> {
        let text = |key: &str| object[key].as_str().map(String::from).context("not a text");
        let file = text("file")?;
        let entry = manifest.objects.iter().find(|entry| entry.file == file);
        let sha256 = entry.with_context(|| format!("{file} is not listed"))?.sha256.clone();
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
