//! Reads, checks and writes the manifest.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use crate::entry::{ByteOrder, Layer, ObjectEntry};

/// The content of `manifest.toml`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The version of the format: [`Manifest::FORMAT_VERSION`].
    pub format_version: u32,
    /// The XDP target that works on most kernels. Packages install this target's object for the
    /// machine's byte order under the name [`Manifest::DEFAULT_OBJECT`].
    pub default_target: String,
    /// SHA-256 over all inputs of the objects and over the other fields of this manifest.
    /// `build-tools` compares it with the current inputs to decide whether a build is necessary.
    pub sources_sha256: String,
    /// The objects, best first in each layer.
    #[serde(rename = "object")]
    pub objects: Vec<ObjectEntry>,
}

/// The reason why a text is not a valid manifest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// The text is not TOML, or a field is missing or has another type.
    #[error("the manifest is malformed: {0}; reinstall the objects")]
    Malformed(String),
    /// The format has another version.
    #[error(
        "the manifest has format version {found}, but this library reads version {}; \
         install objects and library of the same release",
        Manifest::FORMAT_VERSION
    )]
    FormatVersion {
        /// The version in the manifest.
        found: i64,
    },
    /// A field of an entry has an invalid value.
    #[error("the manifest's entry {file:?} is invalid: {problem}; reinstall the objects")]
    Entry {
        /// The entry's `file`.
        file: String,
        /// The problem.
        problem: String,
    },
}

impl Manifest {
    /// The format version that this crate reads and writes.
    pub const FORMAT_VERSION: u32 = 2;
    /// The manifest's file name.
    pub const FILE_NAME: &'static str = "manifest.toml";
    /// The file name under which a package installs the default target's object.
    pub const DEFAULT_OBJECT: &'static str = "laminar_xdp.o";

    /// Parses and checks a manifest. Every file name in the result is the plain name of a
    /// file in the manifest's folder, and no two entries have the same name.
    ///
    /// # Errors
    /// [`ManifestError`]. The format version is checked before any other field, because
    /// another version may have changed the fields.
    pub fn parse(text: &str) -> Result<Manifest, ManifestError> {
        let malformed = |e: toml::de::Error| ManifestError::Malformed(e.to_string());
        let table: toml::Table = text.parse().map_err(malformed)?;
        match table.get("format_version").and_then(toml::Value::as_integer) {
            Some(version) if version == i64::from(Self::FORMAT_VERSION) => {}
            Some(found) => return Err(ManifestError::FormatVersion { found }),
            None => return Err(ManifestError::Malformed("there is no format_version".into())),
        }
        let manifest: Manifest = table.try_into().map_err(malformed)?;
        manifest.check()?;
        Ok(manifest)
    }

    /// Finds the object with the file name `name`. For [`Manifest::DEFAULT_OBJECT`] this is
    /// the default target's object in the host's byte order.
    pub fn find(&self, name: &str) -> Option<&ObjectEntry> {
        if name == Self::DEFAULT_OBJECT {
            return self.default_object(ByteOrder::HOST);
        }
        self.objects.iter().find(|object| object.file == name)
    }

    /// The default target's object for `byte_order`.
    pub fn default_object(&self, byte_order: ByteOrder) -> Option<&ObjectEntry> {
        self.objects
            .iter()
            .find(|object| object.target == self.default_target && object.byte_order == byte_order)
    }

    /// Writes the manifest as text that [`Manifest::parse`] reads.
    #[cfg(feature = "write")]
    pub fn to_toml(&self) -> Result<String, toml::ser::Error> {
        toml::to_string(self)
    }

    fn check(&self) -> Result<(), ManifestError> {
        if self.objects.is_empty() {
            return Err(ManifestError::Malformed("there is no object".into()));
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
                "its name is not a plain file name in the manifest's folder"
            } else if object.file == Self::DEFAULT_OBJECT || !files.insert(&object.file) {
                "its name is reserved, or another entry has it"
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
