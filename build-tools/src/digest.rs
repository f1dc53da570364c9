//! Decides whether a build is necessary. The manifest contains a digest over all inputs of the
//! artifact and over the manifest's other fields.

use anyhow::Result;
use laminar_xdp_prebuilt::{Manifest, sha256_hex};

use crate::project::Project;

/// Returns whether a build from the current sources would leave `bpf-prebuilt/` unchanged.
pub fn is_current(project: &Project) -> Result<bool> {
    let read = |path: &str| project.read_if_exists(path);
    let (Some(text), Some(embedded)) = (read(Project::MANIFEST)?, read(Project::EMBEDDED)?) else {
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

/// Computes the SHA-256 over the sources, build-tools, `Cargo.lock`, the crate in
/// `bpf-prebuilt/src`, and the manifest without this digest. The sources include `targets.toml`,
/// which names the compiler's version.
pub fn of(project: &Project, manifest: &Manifest, embedded: &str) -> Result<String> {
    let mut digests = String::new();
    let mut files = project.files(Project::SOURCES, &["c", "h", "toml"])?;
    files.extend(project.files(Project::PRODUCER, &["rs"])?);
    files.extend(project.files(Project::ARTIFACT_CRATE, &["rs"])?);
    files.push("Cargo.lock".into());
    for path in files {
        // Skip the file on disk, which may be outdated. The code after the loop adds the new text.
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
