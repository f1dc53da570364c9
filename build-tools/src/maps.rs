//! The maps of an object, which only its BTF describes: `.maps` holds variables
//! of anonymous structs whose members are pointers, to an array of N ints for
//! the number N and to a type for a type.

use anyhow::{Context, Result, bail};
use btf_rs::{Btf, BtfType, Type};
use laminar_xdp_prebuilt::MapFacts;

/// The maps that a BTF describes, ordered by name.
pub fn maps(btf: &[u8]) -> Result<Vec<MapFacts>> {
    let btf = Btf::from_bytes(btf).context("its BTF cannot be read")?;
    let mut maps = Vec::new();
    for section in btf.resolve_types_by_name(".maps").context("no section .maps")? {
        let Type::Datasec(section) = section else { continue };
        for variable in &section.variables {
            let variable = btf.resolve_chained_type(variable)?;
            let Type::Var(variable) = variable else { bail!("no variable in .maps") };
            let name = btf.resolve_name(&variable)?;
            maps.push(map(&btf, name.clone(), &variable).with_context(|| format!("map {name}"))?);
        }
    }
    maps.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(maps)
}

fn map(btf: &Btf, name: String, variable: &dyn BtfType) -> Result<MapFacts> {
    let Type::Struct(definition) = btf.resolve_chained_type(variable)? else {
        bail!("not a struct");
    };
    let mut map =
        MapFacts { name, kind: String::new(), key_size: 0, value_size: 0, max_entries: 0 };
    for member in &definition.members {
        let Type::Ptr(pointer) = btf.resolve_chained_type(member)? else { bail!("no pointer") };
        let points_to = btf.resolve_chained_type(&pointer)?;
        match (btf.resolve_name(member)?.as_str(), points_to) {
            ("type", Type::Array(number)) => map.kind = kind(number.len())?.into(),
            ("max_entries", Type::Array(number)) => map.max_entries = number.len().try_into()?,
            ("key", of) => map.key_size = size_of_type(btf, of)?,
            ("value", of) => map.value_size = size_of_type(btf, of)?,
            // The kernel refuses a map without the flags that its type has to have.
            ("map_flags", _) => {}
            (other, _) => bail!("it has an attribute {other:?}, which none of ours has"),
        }
    }
    Ok(map)
}

/// The kernel's name for a number of `enum bpf_map_type`.
fn kind(number: usize) -> Result<&'static str> {
    match number {
        2 => Ok("array"),
        6 => Ok("percpu_array"),
        9 => Ok("lru_hash"),
        11 => Ok("lpm_trie"),
        16 => Ok("cpumap"),
        20 => Ok("reuseport_sockarray"),
        27 => Ok("ringbuf"),
        _ => bail!("its type {number} is none of ours"),
    }
}

fn size_of_type(btf: &Btf, of: Type) -> Result<u32> {
    let size = match &of {
        Type::Int(int) => int.size(),
        Type::Struct(of) => of.size(),
        Type::Typedef(of) => return size_of_type(btf, btf.resolve_chained_type(of)?),
        _ => bail!("a {} has no size here", of.name()),
    };
    Ok(size.try_into()?)
}
