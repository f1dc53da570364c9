//! Checks that a compiled object has the programs and maps of its target, before the object
//! reaches `bpf-prebuilt/`.

use anyhow::{Result, ensure};
use laminar_xdp_prebuilt::{ByteOrder, MapFacts, abi};

use crate::inspect::ElfFacts;
use crate::targets::Target;

/// The sections that an object may have in addition to the sections of its programs. The first
/// section of an ELF file has no name. `.rodata` and `.data` need no check here: libbpf creates
/// maps for these two sections, and the check of the maps includes those maps.
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

/// Checks every property on which the loader, the kernel and other tools rely. The expected
/// values come from the schema and the ABI header.
pub fn verify(facts: &ElfFacts, target: &Target, byte_order: ByteOrder) -> Result<()> {
    ensure!(facts.byte_order == byte_order, "it is compiled for {}", facts.byte_order);

    let layout = target.layout();
    let found = facts.programs.iter().map(|program| (&*program.name, &*program.section));
    let found: Vec<_> = found.collect();
    let programs = layout.programs();
    let programs = programs.iter().map(|program| Ok((program.name.to_str()?, program.section)));
    let programs = programs.collect::<Result<Vec<_>>>()?;
    ensure!(found == programs, "its programs and sections are {found:?}, not {programs:?}");

    let license = abi::LAMINAR_LICENSE.to_str()?;
    ensure!(facts.license == license, "its licence is {:?}, not {license:?}", facts.license);

    let expected: Vec<MapFacts> = layout.maps().iter().map(|map| map.facts()).collect();
    ensure!(facts.maps == expected, "its maps are {:#?}, expected {expected:#?}", facts.maps);

    for section in [".BTF", ".BTF.ext"] {
        ensure!(facts.sections.iter().any(|s| s == section), "it has no section {section}");
    }
    // Any other section would contain DWARF, or data for which libbpf would create a map.
    let of_program = |name: &str| {
        let name = name.strip_prefix(".rel").unwrap_or(name);
        programs.iter().any(|(_, section)| *section == name)
    };
    let known = |name: &String| SECTIONS.contains(&name.as_str()) || of_program(name);
    let unexpected = facts.sections.iter().find(|name| !known(name));
    ensure!(unexpected.is_none(), "it has an unexpected section: {unexpected:?}");
    let undefined = &facts.undefined_symbols;
    ensure!(undefined.is_empty(), "it has unresolved symbols: {undefined:?}");
    Ok(())
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
    fn each_checked_in_object_passes_only_for_its_own_layout() {
        for (elf, target, byte_order) in objects() {
            let facts = inspect(&elf).unwrap();
            verify(&facts, &target, byte_order).unwrap();
            for (_, other, other_order) in objects() {
                // Targets may have the same layout: they then differ in instructions alone.
                let same = other.layout() == target.layout() && other_order == byte_order;
                assert_eq!(verify(&facts, &other, other_order).is_ok(), same);
            }
        }
    }

    #[test]
    fn every_wrong_property_is_reported() {
        /// A text in the expected error, and the change to an object's facts that causes the error.
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
    fn files_that_are_not_objects_are_refused() {
        let (elf, ..) = objects().remove(0);
        for bytes in [&b""[..], b"\x7fELF", &elf[..64], &elf[..elf.len() / 2]] {
            assert!(inspect(bytes).is_err());
        }
    }
}
