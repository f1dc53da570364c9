//! What an object of each layer looks like. Whatever is not our programs with our
//! maps is refused before it reaches the kernel: other maps could be pinned ones of
//! somebody else.

use std::ffi::CStr;
use std::io;
use std::os::fd::OwnedFd;

use laminar_xdp_prebuilt::{Layer, abi};
use libbpf_sys as sys;

use crate::kernel::libbpf::object::{Map, MapDefinition, Object, ProgramDefinition};

/// Name, type, sizes of a value, and the entries where the loader sets none.
type KnownMap = (&'static CStr, sys::bpf_map_type, &'static [u32], Option<u32>);

const SETTINGS_SIZE: u32 = size_of::<abi::laminar_settings>() as u32;
const OWNER_SIZE: u32 = size_of::<abi::laminar_owner>() as u32;
const REASONS: u32 = abi::LAMINAR_REASON_COUNT;

const CPU_MAP: KnownMap = (abi::LAMINAR_MAP_CPU, sys::BPF_MAP_TYPE_CPUMAP, &[4, 8], None);
const SOCKETS: KnownMap =
    (abi::LAMINAR_MAP_SOCKETS, sys::BPF_MAP_TYPE_REUSEPORT_SOCKARRAY, &[4], None);
const STATS: KnownMap =
    (abi::LAMINAR_MAP_STATS, sys::BPF_MAP_TYPE_PERCPU_ARRAY, &[8], Some(REASONS));
const STEERING: KnownMap =
    (abi::LAMINAR_MAP_STEERING, sys::BPF_MAP_TYPE_ARRAY, &[OWNER_SIZE], None);
/// The settings are in exactly one of two places.
const SETTINGS: [KnownMap; 2] = [
    (abi::LAMINAR_MAP_SETTINGS, sys::BPF_MAP_TYPE_ARRAY, &[SETTINGS_SIZE], Some(1)),
    (abi::LAMINAR_MAP_RODATA, sys::BPF_MAP_TYPE_ARRAY, &[SETTINGS_SIZE], Some(1)),
];

/// A map that another process made, if it is what one of this name is.
pub fn map(name: &CStr, descriptor: OwnedFd) -> io::Result<Map> {
    let known = [CPU_MAP, SOCKETS, STATS, STEERING].into_iter().find(|(other, ..)| *other == name);
    let (_, kind, value_sizes, _) = known.ok_or(io::ErrorKind::InvalidInput)?;
    Map::of(descriptor, kind, value_sizes)
}

/// Gives the object's programs, or what is wrong with it.
pub fn check(object: &Object, layer: Layer) -> Result<Vec<ProgramDefinition>, String> {
    let (programs, required): (&[(&CStr, sys::bpf_prog_type)], _) = match layer {
        Layer::Xdp => {
            (&[(abi::LAMINAR_PROGRAM, sys::BPF_PROG_TYPE_XDP)], [CPU_MAP, STATS, STEERING])
        }
        Layer::Sockets => (
            &[
                (abi::LAMINAR_PROGRAM_FILTER, sys::BPF_PROG_TYPE_SOCKET_FILTER),
                (abi::LAMINAR_PROGRAM_SELECT, sys::BPF_PROG_TYPE_SK_REUSEPORT),
            ],
            [SOCKETS, STATS, STEERING],
        ),
    };
    let found = object.programs();
    let is_there = |(name, kind): &(&CStr, sys::bpf_prog_type)| {
        found.iter().any(|program| program.kind == *kind && *program.name == **name)
    };
    if found.len() != programs.len() || !programs.iter().all(is_there) {
        let names: Vec<_> = programs.iter().map(|(name, _)| name).collect();
        return Err(format!("its programs are not {names:?}, but {found:?}"));
    }
    let maps = object.maps();
    for map in &maps {
        let known = required.iter().chain(&SETTINGS).any(|known| is(map, known));
        if map.pinned || map.key_size != 4 || !known {
            return Err(format!(
                "its map {:?} (type {}, {} byte keys, {} byte values, {} entries, pinned: {}) is \
                 none of ours",
                map.name, map.kind, map.key_size, map.value_size, map.entries, map.pinned
            ));
        }
    }
    let has = |name: &CStr| maps.iter().any(|map| *map.name == *name);
    if let Some((missing, ..)) = required.iter().find(|(name, ..)| !has(name)) {
        return Err(format!("it has no map {missing:?}"));
    }
    match has(abi::LAMINAR_MAP_RODATA) != has(abi::LAMINAR_MAP_SETTINGS) {
        true => Ok(found),
        false => Err("it has no place for the settings, or two".into()),
    }
}

fn is(map: &MapDefinition, (name, kind, value_sizes, entries): &KnownMap) -> bool {
    *map.name == **name
        && map.kind == *kind
        && value_sizes.contains(&map.value_size)
        && entries.is_none_or(|entries| map.entries == entries)
}
