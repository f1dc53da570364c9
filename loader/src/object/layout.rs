//! Checks that an object has exactly the programs and maps of the schema, before it is loaded.
//! Without this check, an object could declare a further map, and loading it could open a pinned
//! map of another application.

use std::ffi::CStr;
use std::io;
use std::os::fd::OwnedFd;

use laminar_xdp_prebuilt::schema::{Layout, MapSchema};
use laminar_xdp_prebuilt::{Layer, abi};

use crate::sys::libbpf::{MapDefinition, Object, ProgramDefinition};
use crate::sys::map::Map;

// `lookup_per_cpu` reads a counter as two numbers: packets, then bytes.
const _: () = {
    assert!(size_of::<abi::laminar_count>() == size_of::<[u64; 2]>());
    assert!(std::mem::offset_of!(abi::laminar_count, packets) == 0);
    assert!(std::mem::offset_of!(abi::laminar_count, bytes) == size_of::<u64>());
};

/// Takes a map that another process created. Fails unless the type and the sizes of the map are
/// those of a map with this name in the schema.
pub fn foreign_map(name: &CStr, descriptor: OwnedFd) -> io::Result<Map> {
    let cpumap_program = Layout { has_cpumap_program: true, ..Layout::new(Layer::Xdp) };
    let layouts = [cpumap_program, Layout::new(Layer::Xdp), Layout::new(Layer::Sockets)];
    let known: Vec<MapSchema> = layouts.iter().flat_map(Layout::maps).collect();
    let known: Vec<_> = known.iter().filter(|known| known.name == name).collect();
    let kind = known.first().ok_or(io::ErrorKind::InvalidInput)?.kind.number();
    let value_sizes: Vec<_> = known.iter().map(|known| known.value_size as usize).collect();
    Map::from_foreign(descriptor, kind, &value_sizes)
}

/// Returns the object's programs, or a description of how the object differs from the schema.
pub fn check(object: &Object, layer: Layer) -> Result<Vec<ProgramDefinition>, String> {
    let (programs, maps) = (object.programs(), object.maps());
    let layout = layout_of(layer, &programs, &maps);

    let expected = layout.programs();
    let all_match = expected.iter().all(|expected| {
        let same = |found: &&ProgramDefinition| *found.name == *expected.name;
        programs.iter().find(same).is_some_and(|found| found.kind == expected.kind.number())
    });
    if programs.len() != expected.len() || !all_match {
        let names: Vec<_> = expected.iter().map(|program| program.name).collect();
        return Err(format!("its programs are not {names:?}, but {programs:?}"));
    }

    let expected = layout.maps();
    for map in &maps {
        if map.pinned || !expected.iter().any(|expected| is(map, expected)) {
            return Err(format!(
                "its map {:?} (type {}, {} byte keys, {} byte values, {} entries, pinned: {}) is \
                 none of ours",
                map.name, map.kind, map.key_size, map.value_size, map.entries, map.pinned
            ));
        }
    }
    let is_missing = |expected: &&MapSchema| !maps.iter().any(|map| *map.name == *expected.name);
    match expected.iter().find(is_missing) {
        Some(missing) => Err(format!("it has no map {:?}", missing.name)),
        None => Ok(programs),
    }
}

/// The layout that the object must have, derived from the programs and maps that it contains. The
/// presence of one program or map decides each property of the layout.
fn layout_of(layer: Layer, programs: &[ProgramDefinition], maps: &[MapDefinition]) -> Layout {
    let has_program = |name: &CStr| programs.iter().any(|program| *program.name == *name);
    let map = |name: &CStr| maps.iter().find(|map| *map.name == *name);
    Layout {
        layer,
        has_global_data: map(abi::LAMINAR_MAP_RODATA).is_some(),
        has_features: layer == Layer::Xdp && has_program(abi::LAMINAR_PROGRAM_GUARDED),
        has_cpumap_program: map(abi::LAMINAR_MAP_CPU).is_some_and(|map| map.value_size == 8),
        has_frags: programs.iter().any(|program| *program.section == *c"xdp.frags"),
    }
}

fn is(map: &MapDefinition, schema: &MapSchema) -> bool {
    *map.name == *schema.name
        && map.kind == schema.kind.number()
        && map.key_size == schema.key_size
        && map.value_size == schema.value_size
        && (schema.is_resizable || map.entries == schema.max_entries)
}

#[cfg(test)]
mod tests {
    use laminar_xdp_prebuilt::schema::{MapKind, ProgramKind};
    use libbpf_sys as libbpf;

    use super::*;

    #[test]
    fn the_schema_uses_the_kernels_numbers() {
        for (kind, number) in [
            (MapKind::Array, libbpf::BPF_MAP_TYPE_ARRAY),
            (MapKind::PercpuArray, libbpf::BPF_MAP_TYPE_PERCPU_ARRAY),
            (MapKind::LruHash, libbpf::BPF_MAP_TYPE_LRU_HASH),
            (MapKind::LpmTrie, libbpf::BPF_MAP_TYPE_LPM_TRIE),
            (MapKind::Cpumap, libbpf::BPF_MAP_TYPE_CPUMAP),
            (MapKind::ReuseportSockarray, libbpf::BPF_MAP_TYPE_REUSEPORT_SOCKARRAY),
            (MapKind::Ringbuf, libbpf::BPF_MAP_TYPE_RINGBUF),
        ] {
            assert_eq!(MapKind::from_number(number), Some(kind));
        }
        for (kind, number) in [
            (ProgramKind::SocketFilter, libbpf::BPF_PROG_TYPE_SOCKET_FILTER),
            (ProgramKind::Xdp, libbpf::BPF_PROG_TYPE_XDP),
            (ProgramKind::SkReuseport, libbpf::BPF_PROG_TYPE_SK_REUSEPORT),
        ] {
            assert_eq!(kind.number(), number);
        }
    }

    #[test]
    fn a_ring_buffer_may_have_any_page_size() {
        let layout = Layout { has_features: true, ..Layout::new(Layer::Xdp) };
        for page in [4096, 16_384, 65_536] {
            let map = MapDefinition {
                name: abi::LAMINAR_MAP_SAMPLES.into(),
                kind: libbpf::BPF_MAP_TYPE_RINGBUF,
                key_size: 0,
                value_size: 0,
                entries: page,
                pinned: false,
            };
            assert!(layout.maps().iter().any(|schema| is(&map, schema)), "{page}");
        }
    }
}
