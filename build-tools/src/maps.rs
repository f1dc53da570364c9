//! Reads the maps of an object from its BTF. The section `.maps` contains one variable for each
//! map. The variable's type is an anonymous struct of pointers. A pointer to an array of N ints
//! encodes the number N, and a pointer to another type encodes that type.

use anyhow::{Context, Result, bail};
use btf_rs::{Btf, BtfType, Type};
use laminar_xdp_prebuilt::MapFacts;
use laminar_xdp_prebuilt::schema::MapKind;

/// Returns the maps that `btf` describes, ordered by name.
pub fn maps(btf: &[u8]) -> Result<Vec<MapFacts>> {
    let btf = Btf::from_bytes(btf).context("the BTF cannot be read")?;
    let mut maps = Vec::new();
    for section in btf.resolve_types_by_name(".maps").context("no section .maps")? {
        let Type::Datasec(section) = section else { continue };
        for variable in &section.variables {
            let variable = btf.resolve_chained_type(variable)?;
            let Type::Var(variable) = variable else {
                bail!(".maps holds something other than a variable")
            };
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
        let Type::Ptr(pointer) = btf.resolve_chained_type(member)? else {
            bail!("a member is not a pointer")
        };
        let points_to = btf.resolve_chained_type(&pointer)?;
        match (btf.resolve_name(member)?.as_str(), points_to) {
            ("type", Type::Array(number)) => {
                let kind = MapKind::from_number(number.len().try_into()?);
                map.kind =
                    kind.with_context(|| format!("unknown type {}", number.len()))?.name().into();
            }
            ("max_entries", Type::Array(number)) => map.max_entries = number.len().try_into()?,
            ("key", of) => map.key_size = size_of_type(btf, of)?,
            ("value", of) => map.value_size = size_of_type(btf, of)?,
            // The flags need no check: the kernel rejects a map without the flags that its type
            // needs.
            ("map_flags", _) => {}
            (other, _) => bail!("it has the unexpected attribute {other:?}"),
        }
    }
    Ok(map)
}

fn size_of_type(btf: &Btf, of: Type) -> Result<u32> {
    let size = match &of {
        Type::Int(int) => int.size(),
        Type::Struct(of) => of.size(),
        Type::Typedef(of) => return size_of_type(btf, btf.resolve_chained_type(of)?),
        _ => bail!("the size of a {} is not supported", of.name()),
    };
    Ok(size.try_into()?)
}
