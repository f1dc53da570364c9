//! Whether an object is what its target promises, before anybody sees it.

use anyhow::{Result, ensure};
use laminar_xdp_prebuilt::{ByteOrder, MapFacts, abi};

use crate::inspect::ElfFacts;
use crate::targets::Target;

/// Checks everything that the loader, the kernel and other people's tools rely
/// on. The expectations come from the ABI header, not from the object.
pub fn verify(facts: &ElfFacts, target: &Target, byte_order: ByteOrder) -> Result<()> {
    ensure!(facts.byte_order == byte_order, "it was compiled for {}", facts.byte_order);

    let name = abi::LAMINAR_PROGRAM.to_str()?;
    ensure!(facts.program.name == name, "its program is {}, not {name}", facts.program.name);
    // `ip link set ... sec xdp` and xdp-loader look for this name.
    ensure!(facts.program.section == "xdp", "the program is in section {}", facts.program.section);

    let license = abi::LAMINAR_LICENSE.to_str()?;
    ensure!(facts.license == license, "its licence is {:?}, not {license:?}", facts.license);

    let expected = expected_maps(target)?;
    ensure!(facts.maps == expected, "its maps are {:#?}, expected {expected:#?}", facts.maps);

    for section in [".BTF", ".BTF.ext"] {
        ensure!(facts.sections.iter().any(|s| s == section), "it has no section {section}");
    }
    let dwarf = facts.sections.iter().find(|s| s.starts_with(".debug"));
    ensure!(dwarf.is_none(), "it still has DWARF in {dwarf:?}");
    let undefined = &facts.undefined_symbols;
    ensure!(undefined.is_empty(), "it has unresolved symbols: {undefined:?}");
    Ok(())
}

/// What the ABI header says about the maps of a target, in the order of [`ElfFacts::maps`].
fn expected_maps(target: &Target) -> Result<Vec<MapFacts>> {
    let map = |name: &std::ffi::CStr, kind: &str, value_size, max_entries| -> Result<MapFacts> {
        let (name, kind) = (name.to_str()?.to_string(), kind.to_string());
        Ok(MapFacts { name, kind, key_size: 4, value_size, max_entries })
    };
    let settings_size = size_of::<abi::laminar_settings>().try_into()?;
    let cpus = abi::LAMINAR_DEFAULT_CPUS;
    let mut maps = vec![
        map(abi::LAMINAR_MAP_CPU, "cpumap", target.cpu_map_value_size(), cpus)?,
        map(abi::LAMINAR_MAP_STATS, "percpu_array", 8, abi::LAMINAR_REASON_COUNT)?,
        map(abi::LAMINAR_MAP_STEERING, "array", 4, abi::LAMINAR_DEFAULT_PARTITIONS)?,
    ];
    // "settings" sorts before "stats"; global data stands last.
    match target.has_global_data() {
        true => maps.push(map(abi::LAMINAR_MAP_RODATA, "array", settings_size, 1)?),
        false => maps.insert(1, map(abi::LAMINAR_MAP_SETTINGS, "array", settings_size, 1)?),
    }
    Ok(maps)
}
