//! Whether there is anything to do: a digest over all that goes into the artifact
//! and over the manifest that came out, kept in that manifest.

use anyhow::Result;
use laminar_xdp_prebuilt::{Manifest, sha256_hex};

use crate::project::Project;
use crate::set::manifest_path;

/// Whether `bpf-prebuilt/` is what the sources as they are would give.
pub fn is_current(project: &Project) -> Result<bool> {
    let read = |path: &str| project.read_if_there(path);
    let (Some(text), Some(embedded)) = (read(&manifest_path())?, read(Project::EMBEDDED)?) else {
        return Ok(false);
    };
    let Ok(manifest) = Manifest::parse(&String::from_utf8_lossy(&text)) else { return Ok(false) };
    for entry in &manifest.objects {
        let path = format!("{}/{}", Project::ARTIFACT, entry.file);
        match read(&path)? {
            Some(object) if entry.verify(&object).is_ok() => {}
            _ => return Ok(false),
        }
    }
    let objects = project.files(Project::ARTIFACT, &["o"])?.len();
    let embedded = String::from_utf8_lossy(&embedded);
    Ok(objects == manifest.objects.len()
        && manifest.sources_sha256 == of(project, &manifest, &embedded)?)
}

/// SHA-256 over the sources (the compiler's version is one of them), the producer
/// with its dependencies, the artifact's crate, and the manifest without digest.
pub fn of(project: &Project, manifest: &Manifest, embedded: &str) -> Result<String> {
    let mut digests = String::new();
    let mut files = project.files(Project::SOURCES, &["c", "h", "toml"])?;
    files.extend(project.files(Project::PRODUCER, &["rs"])?);
    files.extend(project.files(Project::ARTIFACT_CRATE, &["rs"])?);
    files.push("Cargo.lock".into());
    for path in files {
        // Not written yet when the digest is first made.
        if path.ends_with(Project::EMBEDDED) {
            continue;
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        digests += &format!("{name} {}\n", sha256_hex(&project.shell.read_binary_file(&path)?));
    }
    digests += embedded;
    digests += &Manifest { sources_sha256: String::new(), ..manifest.clone() }.to_toml()?;
    Ok(sha256_hex(digests.as_bytes()))
}
