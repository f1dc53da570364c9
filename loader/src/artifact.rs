//! Which objects are there, and are they intact.
//!
//! A set with a manifest is checked as a whole before any of it is used: one
//! file that is not what the manifest vouches for condemns all of them.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use laminar_xdp_prebuilt::{
    ByteOrder, IntegrityError, Layer, Manifest, ManifestError, ObjectEntry,
};

/// Why the objects cannot be found or trusted. Nothing falls back from here to
/// other objects: a set that was tampered with is not to be worked around.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArtifactError {
    /// A file cannot be read.
    #[error("cannot read {}: {reason}; reinstall the objects, or correct `bpf_object_path`", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: io::Error,
    },
    /// Nothing exists at the path, and the crate was built without objects.
    #[error(
        "{} does not exist, and this program was built without embedded objects; \
         install the objects, or correct `bpf_object_path`", path.display()
    )]
    NotFound {
        /// The path.
        path: PathBuf,
    },
    /// The manifest cannot be used.
    #[error("{}: {source}", path.display())]
    Manifest {
        /// The manifest.
        path: PathBuf,
        /// What is wrong.
        source: ManifestError,
    },
    /// A file is not the one that the manifest vouches for.
    #[error("{}: {source}", folder.display())]
    Tampered {
        /// The folder of the set.
        folder: PathBuf,
        /// What differs.
        source: IntegrityError,
    },
    /// A file cannot be a BPF object for any machine.
    #[error("{} is not a BPF object: {problem}; reinstall the objects, or correct `bpf_object_path`", path.display())]
    NotAnObject {
        /// The file.
        path: PathBuf,
        /// Why not.
        problem: &'static str,
    },
    /// An object without a manifest, for machines of the other byte order.
    #[error(
        "{} was compiled for {found} machines, this one is {}; use the object named .{}.o",
        path.display(), ByteOrder::HOST, ByteOrder::HOST
    )]
    WrongByteOrder {
        /// The file.
        path: PathBuf,
        /// What it was compiled for.
        found: ByteOrder,
    },
}

/// Objects to choose from, best first.
pub(crate) struct Artifact {
    /// Where they come from, for people.
    pub origin: String,
    pub objects: Vec<ArtifactObject>,
}

/// One object, read and checked.
pub(crate) struct ArtifactObject {
    pub file: String,
    /// What a manifest says about it; `None` if nothing vouches for it.
    pub entry: Option<ObjectEntry>,
    pub bytes: Cow<'static, [u8]>,
}

impl ArtifactObject {
    /// Where its programs run. An object alone is an XDP object, or fails to load.
    pub fn layer(&self) -> Layer {
        self.entry.as_ref().map_or(Layer::Xdp, |entry| entry.layer)
    }
}

impl Artifact {
    /// No object and no manifest of ours comes near this; it keeps a wrong path
    /// from filling the memory.
    const MAX_FILE_SIZE: u64 = 4 << 20;

    /// Finds what `path` stands for: a folder's set, the set around an object,
    /// an object alone, or the embedded set where nothing exists.
    pub fn find(path: &Path) -> Result<Artifact, ArtifactError> {
        if path.is_dir() {
            return Self::from_folder(path, &read_manifest(path)?);
        }
        let folder = path.parent().unwrap_or(Path::new(""));
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if exists(&folder.join(Manifest::FILE_NAME))? {
            let manifest = read_manifest(folder)?;
            let entry = manifest.find(name);
            if let Some(entry) = entry {
                // The file itself may be a copy under the default name.
                let as_named = ObjectEntry { file: name.into(), ..entry.clone() };
                verify(folder, &as_named, &read(path)?)?;
            }
            // A default object beside a manifest is never an object alone.
            if entry.is_some() || name == Manifest::DEFAULT_OBJECT {
                return Self::from_folder(folder, &manifest);
            }
        }
        match exists(path)? {
            true => Self::alone(path, name),
            false => Self::embedded(path),
        }
    }

    fn from_folder(folder: &Path, manifest: &Manifest) -> Result<Artifact, ArtifactError> {
        let origin = format!("the set in {}", folder.display());
        Self::set(origin, folder, manifest, |file| read(&folder.join(file)).map(Cow::from))
    }

    /// The objects of a manifest, each as its bytes are found by `bytes_of` and none
    /// if one of them is not what the manifest vouches for.
    fn set(
        origin: String,
        folder: &Path,
        manifest: &Manifest,
        bytes_of: impl Fn(&str) -> Result<Cow<'static, [u8]>, ArtifactError>,
    ) -> Result<Artifact, ArtifactError> {
        let mut objects = Vec::new();
        for entry in &manifest.objects {
            let bytes = bytes_of(&entry.file)?;
            verify(folder, entry, &bytes)?;
            let (file, entry) = (entry.file.clone(), Some(entry.clone()));
            objects.push(ArtifactObject { file, entry, bytes });
        }
        Ok(Artifact { origin, objects })
    }

    fn alone(path: &Path, name: &str) -> Result<Artifact, ArtifactError> {
        let bytes = read(path)?;
        let refuse = |problem| ArtifactError::NotAnObject { path: path.into(), problem };
        if bytes.is_empty() {
            return Err(refuse("it is empty"));
        }
        match ByteOrder::of_elf(&bytes) {
            None => return Err(refuse("it does not begin as a 64-bit ELF file for BPF")),
            Some(ByteOrder::HOST) => {}
            Some(found) => return Err(ArtifactError::WrongByteOrder { path: path.into(), found }),
        }
        tracing::warn!(object = %path.display(), "no manifest vouches for this XDP object");
        let origin = format!("{} alone, vouched for by nothing", path.display());
        let object = ArtifactObject { file: name.into(), entry: None, bytes: bytes.into() };
        Ok(Artifact { origin, objects: vec![object] })
    }

    #[cfg(feature = "embedded")]
    fn embedded(missing: &Path) -> Result<Artifact, ArtifactError> {
        use laminar_xdp_prebuilt::embedded;
        tracing::info!(missing = %missing.display(), "using the embedded XDP objects");
        let manifest = Manifest::parse(embedded::MANIFEST)
            .map_err(|source| ArtifactError::Manifest { path: "embedded".into(), source })?;
        let origin = format!("the embedded set ({} does not exist)", missing.display());
        Self::set(origin, Path::new("embedded"), &manifest, |file| {
            Ok(embedded::object(file).unwrap_or_default().into())
        })
    }

    #[cfg(not(feature = "embedded"))]
    fn embedded(missing: &Path) -> Result<Artifact, ArtifactError> {
        Err(ArtifactError::NotFound { path: missing.into() })
    }
}

/// Whether there is anything at `path`, a broken link included. Not being allowed
/// to look is no answer.
fn exists(path: &Path) -> Result<bool, ArtifactError> {
    match path.symlink_metadata() {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(reason) => Err(ArtifactError::Unreadable { path: path.into(), reason }),
    }
}

fn verify(folder: &Path, entry: &ObjectEntry, bytes: &[u8]) -> Result<(), ArtifactError> {
    entry
        .verify(bytes)
        .map_err(|source| ArtifactError::Tampered { folder: folder.into(), source })?;
    match ByteOrder::of_elf(bytes) {
        Some(byte_order) if byte_order == entry.byte_order => Ok(()),
        _ => Err(ArtifactError::NotAnObject {
            path: folder.join(&entry.file),
            problem: "it is not an ELF file for BPF of the byte order that its manifest states",
        }),
    }
}

fn read_manifest(folder: &Path) -> Result<Manifest, ArtifactError> {
    let path = folder.join(Manifest::FILE_NAME);
    let text = String::from_utf8(read(&path)?).map_err(|error| ArtifactError::Unreadable {
        path: path.clone(),
        reason: io::Error::new(io::ErrorKind::InvalidData, error),
    })?;
    Manifest::parse(&text).map_err(|source| ArtifactError::Manifest { path, source })
}

/// Reads a regular file of a sensible size: a FIFO would block and a device
/// would never end.
fn read(path: &Path) -> Result<Vec<u8>, ArtifactError> {
    let read = || -> io::Result<Vec<u8>> {
        if !path.metadata()?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
        }
        let mut bytes = Vec::new();
        File::open(path)?.take(Artifact::MAX_FILE_SIZE + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > Artifact::MAX_FILE_SIZE {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it is larger than 4 MiB"));
        }
        Ok(bytes)
    };
    read().map_err(|reason| ArtifactError::Unreadable { path: path.into(), reason })
}
