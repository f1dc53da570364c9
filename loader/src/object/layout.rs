//! What an object of each layer looks like. Whatever is not our programs with our
//! maps is refused before it reaches the kernel: other maps could be pinned ones of
//! somebody else.

use std::ffi::CStr;
use std::io;
use std::os::fd::OwnedFd;

use laminar_xdp_prebuilt::{Layer, abi};
use libbpf_sys as libbpf;

use crate::sys::libbpf::{MapDefinition, Object, ProgramDefinition};
use crate::sys::map::Map;

/// A map that an object has.
struct KnownMap {
    name: &'static CStr,
    kind: libbpf::bpf_map_type,
    key_size: usize,
    value_sizes: &'static [usize],
    /// Where nobody sets others: the loader does, and libbpf makes a ring buffer as large as
    /// a page of this machine.
    entries: Option<u32>,
}

const fn array(name: &'static CStr, value_sizes: &'static [usize], entries: u32) -> KnownMap {
    let kind = libbpf::BPF_MAP_TYPE_ARRAY;
    KnownMap { name, kind, key_size: 4, value_sizes, entries: Some(entries) }
}

const SETTINGS_SIZE: &[usize] = &[size_of::<abi::laminar_settings>()];
const CONTROLS_SIZE: &[usize] = &[size_of::<abi::laminar_controls>()];
const SOURCE_SIZE: usize = size_of::<abi::laminar_source>();
const PREFIX_SIZE: usize = size_of::<abi::laminar_prefix>();

const CPU_MAP: KnownMap = KnownMap {
    kind: libbpf::BPF_MAP_TYPE_CPUMAP,
    entries: None,
    ..array(abi::LAMINAR_MAP_CPU, &[4, 8], 0)
};
const SOCKETS: KnownMap = KnownMap {
    kind: libbpf::BPF_MAP_TYPE_REUSEPORT_SOCKARRAY,
    entries: None,
    ..array(abi::LAMINAR_MAP_SOCKETS, &[4], 0)
};
const STATS: KnownMap = KnownMap {
    kind: libbpf::BPF_MAP_TYPE_PERCPU_ARRAY,
    ..array(abi::LAMINAR_MAP_STATS, &[size_of::<abi::laminar_count>()], abi::LAMINAR_REASON_COUNT)
};
const STEERING: KnownMap = KnownMap {
    entries: None,
    ..array(abi::LAMINAR_MAP_STEERING, &[size_of::<abi::laminar_owner>()], 0)
};
/// The settings are in exactly one of two places.
const SETTINGS: [KnownMap; 2] = [
    array(abi::LAMINAR_MAP_SETTINGS, SETTINGS_SIZE, 1),
    array(abi::LAMINAR_MAP_RODATA, SETTINGS_SIZE, 1),
];
/// So are the controls, in XDP objects.
const CONTROLS: [KnownMap; 2] = [
    array(abi::LAMINAR_MAP_CONTROLS, CONTROLS_SIZE, 1),
    array(abi::LAMINAR_MAP_DATA, CONTROLS_SIZE, 1),
];
/// What an object with features has besides; as small as can be, until the loader knows
/// what is wanted.
const FEATURES: [KnownMap; 4] = [
    KnownMap {
        kind: libbpf::BPF_MAP_TYPE_LRU_HASH,
        key_size: SOURCE_SIZE,
        ..array(abi::LAMINAR_MAP_SOURCES, &[8], 1)
    },
    KnownMap {
        kind: libbpf::BPF_MAP_TYPE_LPM_TRIE,
        key_size: PREFIX_SIZE,
        ..array(abi::LAMINAR_MAP_DENY, &[1], 1)
    },
    KnownMap {
        kind: libbpf::BPF_MAP_TYPE_LPM_TRIE,
        key_size: PREFIX_SIZE,
        ..array(abi::LAMINAR_MAP_ALLOW, &[1], 1)
    },
    KnownMap {
        kind: libbpf::BPF_MAP_TYPE_RINGBUF,
        key_size: 0,
        entries: None,
        ..array(abi::LAMINAR_MAP_SAMPLES, &[0], 0)
    },
];

/// A map that another process made, if it is what one of this name is.
pub fn foreign_map(name: &CStr, descriptor: OwnedFd) -> io::Result<Map> {
    let known = [CPU_MAP, SOCKETS, STATS, STEERING].into_iter().find(|known| known.name == name);
    let known = known.ok_or(io::ErrorKind::InvalidInput)?;
    Map::from_foreign(descriptor, known.kind, known.value_sizes)
}

/// Gives the object's programs, or what is wrong with it.
pub fn check(object: &Object, layer: Layer) -> Result<Vec<ProgramDefinition>, String> {
    let xdp = |name| (name, libbpf::BPF_PROG_TYPE_XDP);
    let (programs, also) = match layer {
        Layer::Xdp => (vec![xdp(abi::LAMINAR_PROGRAM)], Some(xdp(abi::LAMINAR_PROGRAM_GUARDED))),
        Layer::Sockets => (
            vec![
                (abi::LAMINAR_PROGRAM_FILTER, libbpf::BPF_PROG_TYPE_SOCKET_FILTER),
                (abi::LAMINAR_PROGRAM_SELECT, libbpf::BPF_PROG_TYPE_SK_REUSEPORT),
            ],
            None,
        ),
    };
    let found = object.programs();
    let is_there = |(name, kind): &(&CStr, libbpf::bpf_prog_type)| {
        found.iter().any(|program| program.kind == *kind && *program.name == **name)
    };
    let has_features = also.is_some_and(|also| is_there(&also));
    let count = programs.len() + usize::from(has_features);
    if found.len() != count || !programs.iter().all(is_there) {
        let names: Vec<_> = programs.iter().map(|(name, _)| name).collect();
        return Err(format!("its programs are not {names:?}, but {found:?}"));
    }

    let mut required = match layer {
        Layer::Xdp => vec![CPU_MAP, STATS, STEERING],
        Layer::Sockets => vec![SOCKETS, STATS, STEERING],
    };
    if has_features {
        required.extend(FEATURES);
    }
    let mut places = vec![SETTINGS];
    if layer == Layer::Xdp {
        places.push(CONTROLS);
    }
    let maps = object.maps();
    for map in &maps {
        let known = required.iter().chain(places.iter().flatten()).any(|known| is(map, known));
        if map.pinned || !known {
            return Err(format!(
                "its map {:?} (type {}, {} byte keys, {} byte values, {} entries, pinned: {}) is \
                 none of ours",
                map.name, map.kind, map.key_size, map.value_size, map.entries, map.pinned
            ));
        }
    }
    let has = |known: &&KnownMap| maps.iter().any(|map| *map.name == *known.name);
    if let Some(missing) = required.iter().find(|known| !has(known)) {
        return Err(format!("it has no map {:?}", missing.name));
    }
    match places.iter().all(|place| place.iter().filter(has).count() == 1) {
        true => Ok(found),
        false => Err("it has no place for the settings or the controls, or two".into()),
    }
}

fn is(map: &MapDefinition, known: &KnownMap) -> bool {
    *map.name == *known.name
        && map.kind == known.kind
        && map.key_size as usize == known.key_size
        && known.value_sizes.contains(&(map.value_size as usize))
        && known.entries.is_none_or(|entries| map.entries == entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_buffer_is_as_large_as_the_machines_pages() {
        for page in [4096, 16_384, 65_536] {
            let map = MapDefinition {
                name: abi::LAMINAR_MAP_SAMPLES.into(),
                kind: libbpf::BPF_MAP_TYPE_RINGBUF,
                key_size: 0,
                value_size: 0,
                entries: page,
                pinned: false,
            };
            assert!(FEATURES.iter().any(|known| is(&map, known)), "{page}");
        }
    }
}
