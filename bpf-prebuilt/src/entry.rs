//! One object as its manifest describes it.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The byte order that an object was compiled for, named as clang names its
/// BPF targets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ByteOrder {
    /// Little-endian.
    Bpfel,
    /// Big-endian.
    Bpfeb,
}

impl ByteOrder {
    /// The byte order of the machine that this code runs on.
    pub const HOST: ByteOrder =
        if cfg!(target_endian = "little") { ByteOrder::Bpfel } else { ByteOrder::Bpfeb };

    /// The byte order that an ELF file states in its header; `None` if `object`
    /// does not begin as a 64-bit ELF file for the BPF machine.
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
    /// In front of the network stack, on an interface.
    Xdp,
    /// Behind it, on a group of sockets.
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
    /// Plain name of the file, which lies beside the manifest.
    pub file: String,
    /// SHA-256 of the file, 64 lower-case hexadecimal digits.
    pub sha256: String,
    /// Where its programs run; objects of different layers do not stand in for
    /// each other.
    pub layer: Layer,
    /// The kernel target that the object was built for, as in `targets.toml`.
    pub target: String,
    /// Byte order of the machines that can run it.
    pub byte_order: ByteOrder,
    /// Version of the agreement between program and user space
    /// ([`crate::abi::LAMINAR_ABI_VERSION`] when it was built).
    pub abi_version: u32,
    /// The oldest kernel release that has all of `requires`. For people only:
    /// distributions backport, so a loader probes.
    pub since: String,
    /// Names of the kernel features ([`crate::Feature`]) without which the object
    /// must not be loaded. A reader that does not know a name must not load the
    /// object.
    pub requires: Vec<String>,
    /// The compiler and its version.
    pub compiler: String,
    /// The compiler's flags, as far as they do not depend on the machine.
    pub flags: Vec<String>,
    /// The licence that the object declares to the kernel.
    pub license: String,
    /// The programs, as found in the ELF file, ordered by name.
    #[serde(rename = "program")]
    pub programs: Vec<ProgramFacts>,
    /// The maps, as found in the ELF file, ordered by name.
    #[serde(rename = "map")]
    pub maps: Vec<MapFacts>,
}

/// A program as found in an ELF file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgramFacts {
    /// Its symbol.
    pub name: String,
    /// The section that holds it.
    pub section: String,
    /// Its length in BPF instructions of 8 bytes.
    pub instructions: u32,
}

/// A map as found in an ELF file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MapFacts {
    /// Its symbol, or the section's name for global data.
    pub name: String,
    /// The kernel's name of its type, in lower case: `cpumap`, `array`,
    /// `percpu_array`, `reuseport_sockarray`, `lru_hash`, `lpm_trie`, `ringbuf`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Bytes of a key.
    pub key_size: u32,
    /// Bytes of a value.
    pub value_size: u32,
    /// Entries when nobody resizes it before loading.
    pub max_entries: u32,
}

/// An object's bytes are not the ones that its manifest vouches for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{file} is not the object that its manifest vouches for: its SHA-256 is {found}, \
     the manifest says {expected}; reinstall the objects"
)]
pub struct IntegrityError {
    /// The file's name.
    pub file: String,
    /// What the manifest says.
    pub expected: String,
    /// What the bytes give.
    pub found: String,
}

impl ObjectEntry {
    /// Checks that `object` is, byte for byte, what this entry describes.
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
    fn sha256_is_the_published_one() {
        // The one-block test vector of FIPS 180-4.
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(sha256_hex(b"abc"), expected);
    }

    #[test]
    fn byte_order_is_read_from_the_elf_header() {
        let mut elf = [0u8; 64];
        elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
        elf[18] = 247;
        assert_eq!(ByteOrder::of_elf(&elf), Some(ByteOrder::Bpfel));
        elf[5] = 2;
        assert_eq!(ByteOrder::of_elf(&elf), None, "the machine is stored in that order too");
        elf[18..20].copy_from_slice(&247u16.to_be_bytes());
        assert_eq!(ByteOrder::of_elf(&elf), Some(ByteOrder::Bpfeb));
        elf[4] = 1;
        assert_eq!(ByteOrder::of_elf(&elf), None, "32-bit");
        for len in 0..20 {
            assert_eq!(ByteOrder::of_elf(&elf[..len]), None);
        }
    }
}
