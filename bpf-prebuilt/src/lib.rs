//! The artifact of laminar-xdp: prebuilt BPF objects, the manifest that describes them, and
//! the schema of their programs and maps.
//!
//! `build-tools` uses this crate to write manifests, and `laminar-xdp` uses it to read them. The
//! crate needs no kernel and no compiler, and does not access files. `MANIFEST.md`, in the folder
//! of the objects, describes the manifest and the version rules.

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
