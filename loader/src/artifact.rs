//! Finds the BPF objects and checks that they are intact.
//!
//! A set with a manifest is checked as a whole before any of its objects is used. One file that
//! differs from what the manifest states makes the whole set unusable.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use laminar_xdp_prebuilt::{
    ByteOrder, IntegrityError, Layer, Manifest, ManifestError, ObjectEntry,
};

/// Why the BPF objects cannot be found, or cannot be trusted.
///
/// After this error the loader does not try other objects, because a changed set must not go
/// unnoticed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ArtifactError {
    /// A file cannot be read.
    #[error("cannot read {}; {}", path.display(), Self::REINSTALL)]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: Arc<io::Error>,
    },
    /// Nothing exists at the path, and the crate was built without the feature `embedded`.
    #[error(
        "{} does not exist, and this program was built without embedded objects; \
         install the objects, or correct `bpf_object_path`", path.display()
    )]
    NotFound {
        /// The path.
        path: PathBuf,
    },
    /// The manifest cannot be used.
    #[error("the manifest {} cannot be used", path.display())]
    Manifest {
        /// The manifest.
        path: PathBuf,
        /// What is wrong with the manifest.
        source: ManifestError,
    },
    /// A file differs from what the manifest states.
    #[error("the set of objects in {} is not intact", folder.display())]
    Tampered {
        /// The folder of the set.
        folder: PathBuf,
        /// The file that differs.
        source: IntegrityError,
    },
    /// The objects that a manifest lists have more than 64 MiB together.
    #[error(
        "the objects that the manifest in {} lists have more than 64 MiB together; {}",
        folder.display(), Self::REINSTALL
    )]
    SetTooLarge {
        /// The folder of the set.
        folder: PathBuf,
    },
    /// A file is not a BPF object for any machine.
    #[error("{} is not a BPF object: {problem}; {}", path.display(), Self::REINSTALL)]
    NotAnObject {
        /// The file.
        path: PathBuf,
        /// Why the file is not an object.
        problem: &'static str,
    },
    /// An object without a manifest was compiled for machines of the other byte order.
    #[error(
        "{} was compiled for {found} machines, and this machine is {}; use the object named .{}.o",
        path.display(), ByteOrder::HOST, ByteOrder::HOST
    )]
    WrongByteOrder {
        /// The file.
        path: PathBuf,
        /// The byte order that the object was compiled for.
        found: ByteOrder,
    },
}

impl ArtifactError {
    const REINSTALL: &str = "reinstall the objects, or correct `bpf_object_path`";

    /// The part at the end of the message that tells what to do, for errors that have a cause.
    pub(crate) fn advice(&self) -> Option<&'static str> {
        matches!(self, ArtifactError::Unreadable { .. }).then_some(Self::REINSTALL)
    }

    fn unreadable(path: &Path, source: io::Error) -> Self {
        ArtifactError::Unreadable { path: path.into(), source: Arc::new(source) }
    }
}

/// Objects to choose from, best first.
pub(crate) struct Artifact {
    /// Where the objects come from, for messages.
    pub origin: String,
    pub objects: Vec<ArtifactObject>,
}

/// One object, read and checked.
pub(crate) struct ArtifactObject {
    pub file: String,
    /// The manifest's entry for this object; `None` for an object without a manifest.
    pub entry: Option<ObjectEntry>,
    pub bytes: Cow<'static, [u8]>,
}

impl ArtifactObject {
    /// The layer in which the object's programs run. An object without a manifest is assumed to
    /// be an XDP object; if the object belongs to another layer, loading it fails.
    pub fn layer(&self) -> Layer {
        self.entry.as_ref().map_or(Layer::Xdp, |entry| entry.layer)
    }
}

impl Artifact {
    /// The largest file that is read, in bytes. Objects and manifests are much smaller. Without
    /// a limit, a wrong path could fill the memory.
    const MAX_FILE_SIZE: u64 = 4 << 20;
    /// The most bytes that all objects of a set may have together. A manifest can name one file
    /// many times.
    const MAX_SET_SIZE: usize = 64 << 20;

    /// Finds the objects for a path. The path may be a folder with a set, an object in a folder
    /// with a set, or a single object. If nothing exists at the path, uses the embedded set.
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
                // `from_folder` checks the files that the manifest names. `path` may be a copy of
                // such a file under the default name, so check the copy here.
                let as_named = ObjectEntry { file: name.into(), ..entry.clone() };
                verify(folder, &as_named, &read(path)?)?;
            }
            // In a folder with a manifest, the default name always stands for the whole set, even
            // if the manifest has no such entry. Loading that file alone would bypass the
            // manifest.
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

    /// Returns all objects of a manifest. Fails if one of them does not match the manifest.
    /// `bytes_of` reads a file.
    fn set(
        origin: String,
        folder: &Path,
        manifest: &Manifest,
        bytes_of: impl Fn(&str) -> Result<Cow<'static, [u8]>, ArtifactError>,
    ) -> Result<Artifact, ArtifactError> {
        let (mut objects, mut size) = (Vec::new(), 0);
        for entry in &manifest.objects {
            let bytes = bytes_of(&entry.file)?;
            size += bytes.len();
            if size > Self::MAX_SET_SIZE {
                return Err(ArtifactError::SetTooLarge { folder: folder.into() });
            }
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
            None => return Err(refuse("it does not start like a 64-bit ELF file for BPF")),
            Some(ByteOrder::HOST) => {}
            Some(found) => return Err(ArtifactError::WrongByteOrder { path: path.into(), found }),
        }
        tracing::warn!(object = %path.display(), "this XDP object has no manifest, so its integrity is not checked");
        let origin = format!("{} alone, without a manifest", path.display());
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

/// Whether anything exists at `path`. A symbolic link to nothing counts as well. Fails if the
/// folder cannot be searched, because the answer is then unknown.
fn exists(path: &Path) -> Result<bool, ArtifactError> {
    match path.symlink_metadata() {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(ArtifactError::unreadable(path, error)),
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
    let text = String::from_utf8(read(&path)?).map_err(|error| {
        ArtifactError::unreadable(&path, io::Error::new(io::ErrorKind::InvalidData, error))
    })?;
    Manifest::parse(&text).map_err(|source| ArtifactError::Manifest { path, source })
}

/// Reads a regular file of limited size. A FIFO would block, and a device has no end.
fn read(path: &Path) -> Result<Vec<u8>, ArtifactError> {
    let read = || -> io::Result<Vec<u8>> {
        // The kind is asked of the open file, because the path may name another file by then.
        let file = open(path)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
        }
        let mut bytes = Vec::new();
        file.take(Artifact::MAX_FILE_SIZE + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > Artifact::MAX_FILE_SIZE {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it is larger than 4 MiB"));
        }
        Ok(bytes)
    };
    read().map_err(|error| ArtifactError::unreadable(path, error))
}

/// Opens a file to read. With O_NONBLOCK, opening a FIFO does not wait for a writer.
#[cfg(all(target_os = "linux", not(laminar_xdp_unsupported)))]
fn open(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)
}

#[cfg(not(all(target_os = "linux", not(laminar_xdp_unsupported))))]
fn open(path: &Path) -> io::Result<File> {
    File::open(path)
}
