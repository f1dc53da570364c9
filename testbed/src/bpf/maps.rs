//! Access to the maps of a loaded program, by name.

use std::ffi::CStr;
use std::os::fd::{AsRawFd, OwnedFd};

use anyhow::{Result, bail, ensure};
use libbpf_sys as sys;

use super::answer::{check, own};
use super::program::program_info;

/// Deletes an entry of a map with 4-byte keys.
pub fn delete_from_map(program: &OwnedFd, name: &CStr, key: u32) -> Result<()> {
    let map = map_of(program, name)?;
    // SAFETY: the key has 4 bytes, which is the map's key size.
    check(unsafe { sys::bpf_map_delete_elem(map.as_raw_fd(), (&raw const key).cast()) })?;
    Ok(())
}

/// Writes the entry with key 0 of a map with 4-byte keys.
pub fn write_map(program: &OwnedFd, name: &CStr, value: &[u8]) -> Result<()> {
    let map = map_of(program, name)?;
    let size = map_info(&map)?.value_size as usize;
    ensure!(value.len() == size, "values of map {name:?} have {size} bytes, not {}", value.len());
    let key = 0u32;
    // SAFETY: the key and the value have the sizes that the map declares.
    check(unsafe {
        let (key, value) = ((&raw const key).cast(), value.as_ptr().cast());
        sys::bpf_map_update_elem(map.as_raw_fd(), key, value, 0)
    })?;
    Ok(())
}

/// Reads the entry with key 0 of a map with 4-byte keys.
pub fn read_map(program: &OwnedFd, name: &CStr) -> Result<Vec<u8>> {
    let map = map_of(program, name)?;
    let mut value = vec![0u8; map_info(&map)?.value_size as usize];
    let key = 0u32;
    // SAFETY: the key and the value have the sizes that the map declares.
    check(unsafe {
        let (key, value) = ((&raw const key).cast(), value.as_mut_ptr().cast());
        sys::bpf_map_lookup_elem(map.as_raw_fd(), key, value)
    })?;
    Ok(value)
}

/// Opens the map of a loaded program that has this name in the kernel.
fn map_of(program: &OwnedFd, name: &CStr) -> Result<OwnedFd> {
    let mut ids = [0u32; 16];
    let info = program_info(program, &mut ids)?;
    for id in &ids[..ids.len().min(info.nr_map_ids as usize)] {
        // SAFETY: the call has no precondition and returns a new descriptor.
        let map = unsafe { own(sys::bpf_map_get_fd_by_id(*id)) }?;
        let found = map_info(&map)?.name.map(|c| c as u8);
        if CStr::from_bytes_until_nul(&found).is_ok_and(|found| found == name) {
            return Ok(map);
        }
    }
    bail!("the program has no map named {name:?}")
}

fn map_info(map: &OwnedFd) -> Result<sys::bpf_map_info> {
    let mut info = sys::bpf_map_info::default();
    let mut size = size_of_val(&info) as u32;
    // SAFETY: the kernel writes at most `size` bytes.
    check(unsafe { sys::bpf_map_get_info_by_fd(map.as_raw_fd(), &mut info, &mut size) })?;
    Ok(info)
}
