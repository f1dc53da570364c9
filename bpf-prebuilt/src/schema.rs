//! The schema: the programs and maps that the object of each target must have.
//!
//! `build-tools` verifies each compiled object against the schema. `laminar-xdp` checks
//! each object against the same schema before the kernel sees the object.

use std::ffi::CStr;

use crate::abi;
use crate::entry::{Layer, MapFacts};

/// The kernel's type of a map. The discriminants are those of `enum bpf_map_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
#[allow(missing_docs)]
pub enum MapKind {
    Array = 2,
    PercpuArray = 6,
    LruHash = 9,
    LpmTrie = 11,
    Cpumap = 16,
    ReuseportSockarray = 20,
    Ringbuf = 27,
}

impl MapKind {
    /// Every type that an object uses.
    pub const ALL: &[MapKind] = &[
        MapKind::Array,
        MapKind::PercpuArray,
        MapKind::LruHash,
        MapKind::LpmTrie,
        MapKind::Cpumap,
        MapKind::ReuseportSockarray,
        MapKind::Ringbuf,
    ];

    /// The kernel's name of the type in lower case, as a manifest contains it.
    pub fn name(self) -> &'static str {
        match self {
            MapKind::Array => "array",
            MapKind::PercpuArray => "percpu_array",
            MapKind::LruHash => "lru_hash",
            MapKind::LpmTrie => "lpm_trie",
            MapKind::Cpumap => "cpumap",
            MapKind::ReuseportSockarray => "reuseport_sockarray",
            MapKind::Ringbuf => "ringbuf",
        }
    }

    /// The kernel's number of the type.
    pub const fn number(self) -> u32 {
        self as u32
    }

    /// The type with this number; `None` if no object uses that type.
    pub fn from_number(number: u32) -> Option<MapKind> {
        Self::ALL.iter().copied().find(|kind| kind.number() == number)
    }
}

/// The kernel's type of a program. The discriminants are those of `enum bpf_prog_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
#[allow(missing_docs)]
pub enum ProgramKind {
    SocketFilter = 1,
    Xdp = 6,
    SkReuseport = 21,
}

impl ProgramKind {
    /// The kernel's number of the type.
    pub const fn number(self) -> u32 {
        self as u32
    }
}

/// A program that an object has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProgramSchema {
    /// The program's symbol.
    pub name: &'static CStr,
    /// The program's type.
    pub kind: ProgramKind,
    /// The program's section in the ELF file. libbpf derives the program's type from the section's
    /// name.
    pub section: &'static str,
}

/// A map that an object has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MapSchema {
    /// The map's symbol, or the section of global data.
    pub name: &'static CStr,
    /// The map's type.
    pub kind: MapKind,
    /// Bytes of a key.
    pub key_size: u32,
    /// Bytes of a value.
    pub value_size: u32,
    /// Entries in the ELF file.
    pub max_entries: u32,
    /// Whether the number of entries may change before the kernel creates the map. The loader sizes
    /// some maps for the machine, and libbpf rounds the size of ring buffers up to whole pages.
    pub is_resizable: bool,
}

impl MapSchema {
    /// A map with `u32` keys and a fixed number of entries.
    const fn new(name: &'static CStr, kind: MapKind, value_size: usize, entries: u32) -> Self {
        let value_size = value_size as u32;
        MapSchema { name, kind, key_size: 4, value_size, max_entries: entries, is_resizable: false }
    }

    const fn keyed_by<Key>(self) -> Self {
        MapSchema { key_size: size_of::<Key>() as u32, ..self }
    }

    const fn resizable(self) -> Self {
        MapSchema { is_resizable: true, ..self }
    }

    /// The map as a manifest describes it.
    pub fn facts(&self) -> MapFacts {
        MapFacts {
            name: self.name.to_string_lossy().into_owned(),
            kind: self.kind.name().into(),
            key_size: self.key_size,
            value_size: self.value_size,
            max_entries: self.max_entries,
        }
    }
}

const STATS: MapSchema = MapSchema::new(
    abi::LAMINAR_MAP_STATS,
    MapKind::PercpuArray,
    size_of::<abi::laminar_count>(),
    abi::LAMINAR_STATS_ENTRIES,
);
const STEERING: MapSchema = MapSchema::new(
    abi::LAMINAR_MAP_STEERING,
    MapKind::Array,
    size_of::<abi::laminar_owner>(),
    abi::LAMINAR_DEFAULT_PARTITIONS,
)
.resizable();
const SOCKETS: MapSchema = MapSchema::new(
    abi::LAMINAR_MAP_SOCKETS,
    MapKind::ReuseportSockarray,
    size_of::<u32>(),
    abi::LAMINAR_DEFAULT_CPUS,
)
.resizable();

const fn cpu_map(value_size: usize) -> MapSchema {
    let entries = abi::LAMINAR_DEFAULT_CPUS;
    MapSchema::new(abi::LAMINAR_MAP_CPU, MapKind::Cpumap, value_size, entries).resizable()
}

/// A map, or a section of global data, that holds one value.
const fn single<Value>(name: &'static CStr) -> MapSchema {
    MapSchema::new(name, MapKind::Array, size_of::<Value>(), 1)
}

/// The maps of optional features. These maps have the minimum size. Only the loader knows which
/// features are enabled and how large their maps must be.
const FEATURES: [MapSchema; 4] = [
    MapSchema::new(abi::LAMINAR_MAP_SOURCES, MapKind::LruHash, size_of::<u64>(), 1)
        .keyed_by::<abi::laminar_source>(),
    MapSchema::new(abi::LAMINAR_MAP_DENY, MapKind::LpmTrie, 1, 1).keyed_by::<abi::laminar_prefix>(),
    MapSchema::new(abi::LAMINAR_MAP_ALLOW, MapKind::LpmTrie, 1, 1)
        .keyed_by::<abi::laminar_prefix>(),
    MapSchema::new(abi::LAMINAR_MAP_SAMPLES, MapKind::Ringbuf, 0, 4096)
        .keyed_by::<()>()
        .resizable(),
];

/// The properties of an object that decide its programs and maps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// Where in the kernel the programs run.
    pub layer: Layer,
    /// Settings and controls are global data instead of maps (`LAMINAR_GLOBAL_DATA`).
    pub has_global_data: bool,
    /// A second XDP program implements source lists, source limits and samples
    /// (`LAMINAR_FEATURES`).
    pub has_features: bool,
    /// The values of the CPU map have 8 bytes, with room for a second-stage program
    /// (`LAMINAR_CPUMAP_PROGRAM`).
    pub has_cpumap_program: bool,
    /// The XDP programs accept packets in several buffers (`LAMINAR_FRAGS`).
    pub has_frags: bool,
}

impl Layout {
    /// The layout of a target that is compiled without any define.
    pub const fn new(layer: Layer) -> Layout {
        Layout {
            layer,
            has_global_data: false,
            has_features: false,
            has_cpumap_program: false,
            has_frags: false,
        }
    }

    /// The programs of an object with this layout, ordered by name.
    pub fn programs(&self) -> Vec<ProgramSchema> {
        let program = |name, kind, section| ProgramSchema { name, kind, section };
        let mut programs = match self.layer {
            Layer::Xdp => {
                let section = if self.has_frags { "xdp.frags" } else { "xdp" };
                vec![program(abi::LAMINAR_PROGRAM, ProgramKind::Xdp, section)]
            }
            Layer::Sockets => vec![
                program(abi::LAMINAR_PROGRAM_FILTER, ProgramKind::SocketFilter, "socket"),
                program(abi::LAMINAR_PROGRAM_SELECT, ProgramKind::SkReuseport, "sk_reuseport"),
            ],
        };
        if self.has_features {
            let section = if self.has_frags { "?xdp.frags" } else { "?xdp" };
            programs.push(program(abi::LAMINAR_PROGRAM_GUARDED, ProgramKind::Xdp, section));
        }
        programs.sort_by_key(|program| program.name);
        programs
    }

    /// The maps of an object with this layout, ordered by name. Global data comes last:
    /// `.rodata`, then `.data`.
    pub fn maps(&self) -> Vec<MapSchema> {
        let mut maps = vec![STATS, STEERING];
        maps.push(match self.layer {
            Layer::Xdp if self.has_cpumap_program => cpu_map(8),
            Layer::Xdp => cpu_map(4),
            Layer::Sockets => SOCKETS,
        });
        if self.has_features {
            maps.extend(FEATURES);
        }
        let has_controls = self.layer == Layer::Xdp;
        if !self.has_global_data {
            maps.push(single::<abi::laminar_settings>(abi::LAMINAR_MAP_SETTINGS));
        }
        if !self.has_global_data && has_controls {
            maps.push(single::<abi::laminar_controls>(abi::LAMINAR_MAP_CONTROLS));
        }
        maps.sort_by_key(|map| map.name);
        if self.has_global_data {
            maps.push(single::<abi::laminar_settings>(abi::LAMINAR_MAP_RODATA));
        }
        if self.has_global_data && has_controls {
            maps.push(single::<abi::laminar_controls>(abi::LAMINAR_MAP_DATA));
        }
        maps
    }
}

/// Returns the key of a reason's counter in the map `stats`. An XDP program uses the slot of its
/// interface ([`abi::laminar_settings::interface_slot`]). A socket program uses slot 0.
pub const fn stats_key(interface_slot: u32, reason: u32) -> u32 {
    interface_slot * abi::LAMINAR_MAX_REASONS + reason
}
