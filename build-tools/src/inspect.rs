//! Reads an object's programs, maps and other properties from its ELF file and its BTF.

use anyhow::{Context, Result, bail};
use laminar_xdp_prebuilt::{ByteOrder, MapFacts, ProgramFacts, abi};
use object::read::elf::ElfFile64;
use object::{Endianness, Object, ObjectSection, ObjectSymbol, SymbolKind};

use crate::maps::maps;

/// Bytes of one BPF instruction.
const INSTRUCTION_SIZE: u64 = 8;

pub struct ElfFacts {
    pub byte_order: ByteOrder,
    pub license: String,
    /// Ordered by name.
    pub programs: Vec<ProgramFacts>,
    /// Ordered by name. Global data comes last.
    pub maps: Vec<MapFacts>,
    /// The programs' instructions and relocations. `check` compares them if another compiler than
    /// the pinned compiler is used.
    pub instructions: Vec<u8>,
    /// The initial content of global data; empty if the object has no global data.
    pub global_data: Vec<u8>,
    pub sections: Vec<String>,
    pub undefined_symbols: Vec<String>,
}

type Elf<'data> = ElfFile64<'data, Endianness>;

pub fn inspect(elf: &[u8]) -> Result<ElfFacts> {
    let byte_order = ByteOrder::of_elf(elf).context("not a 64-bit ELF file for BPF")?;
    let file = Elf::parse(elf).context("not an ELF file")?;

    let (mut programs, mut instructions) = (Vec::new(), Vec::new());
    for function in file.symbols().filter(|symbol| symbol.kind() == SymbolKind::Text) {
        let section = file
            .section_by_index(function.section_index().context("a function without a section")?)?;
        if section.size() != function.size() {
            bail!("section {:?} holds more than one function", section.name());
        }
        instructions.extend(relocatable_code(&file, &section)?);
        programs.push(ProgramFacts {
            name: function.name()?.into(),
            section: section.name()?.into(),
            instructions: (function.size() / INSTRUCTION_SIZE).try_into()?,
        });
    }
    programs.sort_by(|a, b| a.name.cmp(&b.name));

    let mut maps = maps(section_data(&file, ".BTF")?)?;
    let mut global_data = Vec::new();
    for name in [abi::LAMINAR_MAP_RODATA, abi::LAMINAR_MAP_DATA] {
        let name = name.to_str()?;
        let Some(section) = file.section_by_name(name) else { continue };
        global_data.extend(section.data()?);
        maps.push(MapFacts {
            name: name.into(),
            kind: "array".into(),
            key_size: 4,
            value_size: section.size().try_into()?,
            max_entries: 1,
        });
    }

    let undefined = file.symbols().filter(|symbol| symbol.is_undefined() && symbol.index().0 != 0);
    let license = section_data(&file, "license")?.strip_suffix(b"\0").context("license")?;
    Ok(ElfFacts {
        byte_order,
        license: String::from_utf8(license.to_vec())?,
        programs,
        maps,
        instructions,
        global_data,
        sections: file.sections().map(|s| Ok(s.name()?.into())).collect::<Result<_>>()?,
        undefined_symbols: undefined.map(|s| Ok(s.name()?.into())).collect::<Result<_>>()?,
    })
}

fn section_data<'data>(file: &Elf<'data>, name: &str) -> Result<&'data [u8]> {
    let section = file.section_by_name(name).with_context(|| format!("no section {name}"))?;
    Ok(section.data()?)
}

/// Returns a section's bytes, followed by the offset and the symbol of each relocation.
fn relocatable_code<'data>(
    file: &Elf<'data>,
    section: &impl ObjectSection<'data>,
) -> Result<Vec<u8>> {
    let mut code = section.data()?.to_vec();
    for (offset, relocation) in section.relocations() {
        code.extend(offset.to_le_bytes());
        if let object::RelocationTarget::Symbol(symbol) = relocation.target() {
            code.extend(file.symbol_by_index(symbol)?.name_bytes()?);
        }
    }
    Ok(code)
}
