//! Whether an object is what its target promises, before anybody sees it.

use std::ffi::CStr;

use anyhow::{Result, ensure};
use laminar_xdp_prebuilt::{ByteOrder, Layer, MapFacts, abi};

use crate::inspect::ElfFacts;
use crate::targets::Target;

/// The sections that an object may have beside its programs; the first is unnamed.
/// Whether `.rodata` and `.data` may be there is judged with the maps, of which they are two.
const SECTIONS: [&str; 13] = [
    "",
    ".strtab",
    ".symtab",
    ".text",
    "license",
    ".maps",
    ".rodata",
    ".data",
    ".BTF",
    ".rel.BTF",
    ".BTF.ext",
    ".rel.BTF.ext",
    ".rel.maps",
];

/// Checks everything that the loader, the kernel and other people's tools rely
/// on. The expectations come from the ABI header, not from the object.
pub fn verify(facts: &ElfFacts, target: &Target, byte_order: ByteOrder) -> Result<()> {
    ensure!(facts.byte_order == byte_order, "it was compiled for {}", facts.byte_order);

    let found = facts.programs.iter().map(|program| (&*program.name, &*program.section));
    let found: Vec<_> = found.collect();
    let programs =
        target.programs().into_iter().map(|(name, section)| Ok((name.to_str()?, section)));
    let programs = programs.collect::<Result<Vec<_>>>()?;
    ensure!(found == programs, "its programs and sections are {found:?}, not {programs:?}");

    let license = abi::LAMINAR_LICENSE.to_str()?;
    ensure!(facts.license == license, "its licence is {:?}, not {license:?}", facts.license);

    let expected = expected_maps(target)?;
    ensure!(facts.maps == expected, "its maps are {:#?}, expected {expected:#?}", facts.maps);

    for section in [".BTF", ".BTF.ext"] {
        ensure!(facts.sections.iter().any(|s| s == section), "it has no section {section}");
    }
    // Any other section is DWARF, or data that libbpf would make a map of.
    let of_program = |name: &str| {
        let name = name.strip_prefix(".rel").unwrap_or(name);
        programs.iter().any(|(_, section)| *section == name)
    };
    let known = |name: &String| SECTIONS.contains(&name.as_str()) || of_program(name);
    let stray = facts.sections.iter().find(|name| !known(name));
    ensure!(stray.is_none(), "it has a section that none of ours has: {stray:?}");
    let undefined = &facts.undefined_symbols;
    ensure!(undefined.is_empty(), "it has unresolved symbols: {undefined:?}");
    Ok(())
}

/// What the ABI header says about the maps of a target, in the order of [`ElfFacts::maps`].
fn expected_maps(target: &Target) -> Result<Vec<MapFacts>> {
    let keyed = |name: &CStr, kind: &str, key_size: usize, value_size: usize, max_entries| {
        let (name, kind) = (name.to_str()?.to_string(), kind.to_string());
        let (key_size, value_size) = (key_size.try_into()?, value_size.try_into()?);
        anyhow::Ok(MapFacts { name, kind, key_size, value_size, max_entries })
    };
    let map = |name, kind: &str, value_size, entries| keyed(name, kind, 4, value_size, entries);
    let settings = size_of::<abi::laminar_settings>();
    let controls = size_of::<abi::laminar_controls>();
    let is_xdp = target.layer == Layer::Xdp;
    let (name, kind, value_size) = match is_xdp {
        true => (abi::LAMINAR_MAP_CPU, "cpumap", target.cpu_map_value_size()),
        false => (abi::LAMINAR_MAP_SOCKETS, "reuseport_sockarray", 4),
    };
    let (count, owner) = (size_of::<abi::laminar_count>(), size_of::<abi::laminar_owner>());
    let mut maps = vec![
        map(name, kind, value_size, abi::LAMINAR_DEFAULT_CPUS)?,
        map(abi::LAMINAR_MAP_STATS, "percpu_array", count, abi::LAMINAR_REASON_COUNT)?,
        map(abi::LAMINAR_MAP_STEERING, "array", owner, abi::LAMINAR_DEFAULT_PARTITIONS)?,
    ];
    if target.has_features() {
        let (source, prefix) = (size_of::<abi::laminar_source>(), size_of::<abi::laminar_prefix>());
        maps.push(keyed(abi::LAMINAR_MAP_SOURCES, "lru_hash", source, 8, 1)?);
        maps.push(keyed(abi::LAMINAR_MAP_DENY, "lpm_trie", prefix, 1, 1)?);
        maps.push(keyed(abi::LAMINAR_MAP_ALLOW, "lpm_trie", prefix, 1, 1)?);
        maps.push(keyed(abi::LAMINAR_MAP_SAMPLES, "ringbuf", 0, 0, 4096)?);
    }
    let has_global_data = target.has_global_data();
    if !has_global_data {
        maps.push(map(abi::LAMINAR_MAP_SETTINGS, "array", settings, 1)?);
    }
    if !has_global_data && is_xdp {
        maps.push(map(abi::LAMINAR_MAP_CONTROLS, "array", controls, 1)?);
    }
    maps.sort_by(|a, b| a.name.cmp(&b.name));
    if has_global_data {
        maps.push(map(abi::LAMINAR_MAP_RODATA, "array", settings, 1)?);
        maps.push(map(abi::LAMINAR_MAP_DATA, "array", controls, 1)?);
    }
    Ok(maps)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect::inspect;
    use crate::project::Project;
    use crate::targets::Targets;

    /// Every checked-in object with its target and byte order.
    fn objects() -> Vec<(Vec<u8>, Target, ByteOrder)> {
        let project = Project::find().unwrap();
        let targets = Targets::read(&project).unwrap();
        let mut objects = Vec::new();
        for target in targets.list {
            for &byte_order in &targets.byte_orders {
                let path = format!("{}/{}", Project::ARTIFACT, target.file(byte_order));
                let elf = project.shell.read_binary_file(path).unwrap();
                objects.push((elf, target.clone(), byte_order));
            }
        }
        objects
    }

    #[test]
    fn the_checked_in_objects_pass_and_nobody_elses_place() {
        for (elf, target, byte_order) in objects() {
            let facts = inspect(&elf).unwrap();
            verify(&facts, &target, byte_order).unwrap();
            for (_, other, other_order) in objects() {
                let same = other.name == target.name && other_order == byte_order;
                assert_eq!(verify(&facts, &other, other_order).is_ok(), same);
            }
        }
    }

    #[test]
    fn each_thing_that_can_be_wrong_is_noticed() {
        /// What the error names, and how to provoke it.
        type Spoil = (&'static str, fn(&mut ElfFacts));
        let spoil: [Spoil; 16] = [
            ("programs", |f| f.programs[0].name = "other".into()),
            ("sections", |f| f.programs[0].section = "xdp/other".into()),
            ("programs", |f| drop(f.programs.pop())),
            ("licence", |f| f.license = "GPL".into()),
            ("maps", |f| drop(f.maps.remove(0))),
            ("maps", |f| f.maps.push(f.maps[0].clone())),
            ("maps", |f| f.maps[0].name = "cpus".into()),
            ("maps", |f| f.maps[0].kind = "hash".into()),
            ("maps", |f| f.maps[1].key_size = 8),
            ("maps", |f| f.maps[1].value_size += 4),
            ("maps", |f| f.maps[2].max_entries += 1),
            (".BTF", |f| f.sections.retain(|s| s != ".BTF")),
            (".debug_info", |f| f.sections.push(".debug_info".into())),
            (".bss", |f| f.sections.push(".bss".into())),
            ("\"maps\"", |f| f.sections.push("maps".into())),
            ("unresolved", |f| f.undefined_symbols.push("bpf_num_possible_cpus".into())),
        ];
        for (elf, target, byte_order) in objects() {
            for (named, spoil) in spoil {
                let mut facts = inspect(&elf).unwrap();
                spoil(&mut facts);
                let error = verify(&facts, &target, byte_order).expect_err(named).to_string();
                assert!(error.contains(named), "{named}: {error}");
            }
        }
    }

    #[test]
    fn what_is_no_object_is_refused() {
        let (elf, ..) = objects().remove(0);
        for bytes in [&b""[..], b"\x7fELF", &elf[..64], &elf[..elf.len() / 2]] {
            assert!(inspect(bytes).is_err());
        }
    }
}
