//! The artifact of laminar-xdp: prebuilt BPF objects, the manifest that
//! describes them, and what that manifest means.
//!
//! `build-tools` writes what this crate defines and `laminar-xdp` reads it, so
//! that the meaning of a manifest stands in one place. Reading needs no kernel
//! and no compiler; nothing in here touches the file system. The same meaning
//! in prose, with the version rules, is in `MANIFEST.md` beside the objects.

#[allow(missing_docs, non_camel_case_types, dead_code)]
#[rustfmt::skip]
pub mod abi;
#[cfg(feature = "embed")]
pub mod embedded;
mod entry;
mod feature;
mod manifest;
pub mod schema;

pub use entry::{
    ByteOrder, IntegrityError, Layer, MapFacts, ObjectEntry, ProgramFacts, sha256_hex,
};
pub use feature::{Feature, UnknownFeature};
pub use manifest::{Manifest, ManifestError};
