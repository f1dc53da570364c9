//! The manifest's entry for one object.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The byte order of an object. The names are those of clang's BPF targets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ByteOrder {
    /// Little-endian.
    Bpfel,
    /// Big-endian.
    Bpfeb,
}

impl ByteOrder {
    /// The byte order of the machine on which this code runs.
    pub const HOST: ByteOrder =
        if cfg!(target_endian = "little") { ByteOrder::Bpfel } else { ByteOrder::Bpfeb };

    /// Reads the byte order from the header of an ELF file; `None` if `object` does not begin
    /// with the header of a 64-bit ELF file for BPF.
    pub fn of_elf(object: &[u8]) -> Option<ByteOrder> {
        const ELFCLASS64: u8 = 2;
        const EM_BPF: u16 = 247;
        let (ident, machine) = (object.get(..16)?, object.get(18..20)?);
        let machine: [u8; 2] = machine.try_into().ok()?;
        match ident {
            [0x7f, b'E', b'L', b'F', ELFCLASS64, 1, ..] => {
                (u16::from_le_bytes(machine) == EM_BPF).then_some(ByteOrder::Bpfel)
            }
            [0x7f, b'E', b'L', b'F', ELFCLASS64, 2, ..] => {
                (u16::from_be_bytes(machine) == EM_BPF).then_some(ByteOrder::Bpfeb)
            }
            _ => None,
        }
    }
}

impl fmt::Display for ByteOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ByteOrder::Bpfel => "bpfel",
            ByteOrder::Bpfeb => "bpfeb",
        })
    }
}

/// Where in the kernel an object's programs run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layer {
    /// On an interface, before the network stack.
    Xdp,
    /// On a group of sockets, after the network stack.
    Sockets,
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Layer::Xdp => "xdp",
            Layer::Sockets => "sockets",
        })
    }
}

/// One `[[object]]` of a manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectEntry {
    /// The plain name of a file in the manifest's folder.
    pub file: String,
    /// SHA-256 of the file, 64 lower-case hexadecimal digits.
    pub sha256: String,
    /// Where the programs run. An object cannot replace an object of the other layer.
    pub layer: Layer,
    /// The kernel target of the object, as in `targets.toml`.
    pub target: String,
    /// The byte order of the machines that can load the object.
    pub byte_order: ByteOrder,
    /// The version of the interface between the programs and user space. The value is
    /// [`crate::abi::LAMINAR_ABI_VERSION`] at the time of the build.
    pub abi_version: u32,
    /// The oldest kernel release that has every feature in `requires`. This field informs human
    /// readers. A loader must probe for the features, because distributions backport them.
    pub since: String,
    /// The names of the kernel features ([`crate::Feature`]) that the object needs. A reader
    /// that does not know a name must not load the object.
    pub requires: Vec<String>,
    /// The compiler and its version.
    pub compiler: String,
    /// The compiler's flags, except flags that depend on the machine.
    pub flags: Vec<String>,
    /// The licence that the object declares to the kernel.
    pub license: String,
    /// The programs in the ELF file, ordered by name.
    #[serde(rename = "program")]
    pub programs: Vec<ProgramFacts>,
    /// The maps in the ELF file, ordered by name. Global data comes last.
    #[serde(rename = "map")]
    pub maps: Vec<MapFacts>,
}

/// A program in an ELF file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgramFacts {
    /// The program's symbol.
    pub name: String,
    /// The section that holds the program.
    pub section: String,
    /// The program's length in BPF instructions of 8 bytes.
    pub instructions: u32,
}

/// A map in an ELF file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MapFacts {
    /// The map's symbol, or the section's name for global data.
    pub name: String,
    /// The kernel's name of the map's type, in lower case ([`crate::schema::MapKind::name`]).
    #[serde(rename = "type")]
    pub kind: String,
    /// Bytes of a key.
    pub key_size: u32,
    /// Bytes of a value.
    pub value_size: u32,
    /// The number of entries in the ELF file. The loader resizes some maps before the kernel
    /// creates them.
    pub max_entries: u32,
}

/// The error if the SHA-256 of an object differs from the SHA-256 in the manifest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{file} is not the object that its manifest lists: its SHA-256 is {found} instead of \
     {expected}; reinstall the objects"
)]
pub struct IntegrityError {
    /// The file's name.
    pub file: String,
    /// The digest in the manifest.
    pub expected: String,
    /// The digest of the bytes.
    pub found: String,
}

impl ObjectEntry {
    /// Checks that `object` has the SHA-256 that this entry lists.
    ///
    /// # Errors
    /// [`IntegrityError`] if the SHA-256 differs.
    pub fn verify(&self, object: &[u8]) -> Result<(), IntegrityError> {
        let found = sha256_hex(object);
        if found == self.sha256 {
            return Ok(());
        }
        Err(IntegrityError { file: self.file.clone(), expected: self.sha256.clone(), found })
    }
}

/// SHA-256 of `bytes` as 64 lower-case hexadecimal digits.
pub fn sha256_hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sha256_gives_the_published_digest() {
        // The one-block test vector of FIPS 180-4.
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(sha256_hex(b"abc"), expected);
    }

    #[test]
    fn byte_order_comes_from_the_elf_header() {
        let mut elf = [0u8; 64];
        elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
        elf[18] = 247;
        assert_eq!(ByteOrder::of_elf(&elf), Some(ByteOrder::Bpfel));
        elf[5] = 2;
        assert_eq!(
            ByteOrder::of_elf(&elf),
            None,
            "the field `machine` must have the byte order of the file"
        );
        elf[18..20].copy_from_slice(&247u16.to_be_bytes());
        assert_eq!(ByteOrder::of_elf(&elf), Some(ByteOrder::Bpfeb));
        elf[4] = 1;
        assert_eq!(ByteOrder::of_elf(&elf), None, "32-bit");
        for len in 0..20 {
            assert_eq!(ByteOrder::of_elf(&elf[..len]), None);
        }
    }
}
