//! The manifest as a whole: reading, checking, writing.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use crate::entry::{ByteOrder, Layer, ObjectEntry};

/// What `manifest.toml` says about the objects beside it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of the manifest's own format: [`Manifest::FORMAT_VERSION`].
    pub format_version: u32,
    /// The target that suits most kernels. Packages offer its object, in the
    /// byte order of the machine, as [`Manifest::DEFAULT_OBJECT`].
    pub default_target: String,
    /// SHA-256 over everything that the objects were built from and the rest of
    /// this manifest, by which the producer knows that there is nothing to do.
    pub sources_sha256: String,
    /// The objects, best first in each layer.
    #[serde(rename = "object")]
    pub objects: Vec<ObjectEntry>,
}

/// Why a text is not a manifest that can be trusted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// Not TOML, or not the fields of a manifest.
    #[error("the manifest is malformed: {0}; reinstall the objects")]
    Malformed(String),
    /// Another version of the format.
    #[error(
        "the manifest has format version {found}, this library reads version {}; \
         install objects and library of the same release",
        Manifest::FORMAT_VERSION
    )]
    FormatVersion {
        /// The version that the manifest states.
        found: i64,
    },
    /// Well-formed, but a field has a value that it cannot have.
    #[error("the manifest's entry {file:?} cannot be used: {problem}; reinstall the objects")]
    Entry {
        /// The entry's `file`.
        file: String,
        /// What is wrong with it.
        problem: String,
    },
}

impl Manifest {
    /// The version of the format that this crate reads and writes.
    pub const FORMAT_VERSION: u32 = 2;
    /// The manifest's name in the folder of the objects.
    pub const FILE_NAME: &'static str = "manifest.toml";
    /// The name under which a package offers the default target's object.
    pub const DEFAULT_OBJECT: &'static str = "laminar_xdp.o";

    /// Reads and checks a manifest. Every file name in an accepted manifest is
    /// the plain name of a file beside it, and no two entries share one.
    ///
    /// # Errors
    /// [`ManifestError`], in which the format version is judged before any
    /// field that another version might have changed.
    pub fn parse(text: &str) -> Result<Manifest, ManifestError> {
        let malformed = |e: toml::de::Error| ManifestError::Malformed(e.to_string());
        let table: toml::Table = text.parse().map_err(malformed)?;
        match table.get("format_version").and_then(toml::Value::as_integer) {
            Some(version) if version == i64::from(Self::FORMAT_VERSION) => {}
            Some(found) => return Err(ManifestError::FormatVersion { found }),
            None => return Err(ManifestError::Malformed("it has no format_version".into())),
        }
        let manifest: Manifest = table.try_into().map_err(malformed)?;
        manifest.check()?;
        Ok(manifest)
    }

    /// The object that stands for `name` in a folder with this manifest: the
    /// one listed under that name, or the host's default for
    /// [`Manifest::DEFAULT_OBJECT`].
    pub fn find(&self, name: &str) -> Option<&ObjectEntry> {
        if name == Self::DEFAULT_OBJECT {
            return self.default_object(ByteOrder::HOST);
        }
        self.objects.iter().find(|object| object.file == name)
    }

    /// The default target's object for machines of `byte_order`.
    pub fn default_object(&self, byte_order: ByteOrder) -> Option<&ObjectEntry> {
        self.objects
            .iter()
            .find(|object| object.target == self.default_target && object.byte_order == byte_order)
    }

    /// The manifest as the text that [`Manifest::parse`] reads.
    #[cfg(feature = "write")]
    pub fn to_toml(&self) -> Result<String, toml::ser::Error> {
        toml::to_string(self)
    }

    fn check(&self) -> Result<(), ManifestError> {
        if self.objects.is_empty() {
            return Err(ManifestError::Malformed("it lists no object".into()));
        }
        let is_default = |o: &ObjectEntry| o.layer == Layer::Xdp && o.target == self.default_target;
        if !self.objects.iter().any(is_default) {
            let problem =
                format!("no XDP object is of the default target {:?}", self.default_target);
            return Err(ManifestError::Malformed(problem));
        }
        let mut files = HashSet::new();
        for object in &self.objects {
            let problem = if !is_plain_name(&object.file) {
                "its name is not that of a file in the manifest's own folder"
            } else if object.file == Self::DEFAULT_OBJECT || !files.insert(&object.file) {
                "its name is taken"
            } else if !is_sha256(&object.sha256) {
                "its sha256 is not 64 lower-case hexadecimal digits"
            } else {
                continue;
            };
            let (file, problem) = (object.file.clone(), problem.into());
            return Err(ManifestError::Entry { file, problem });
        }
        Ok(())
    }
}

fn is_plain_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    !name.is_empty() && !name.starts_with('.') && name.chars().all(plain)
}

fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}
