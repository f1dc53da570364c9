//! Information about loaded programs, and attaching them.

use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr;

use anyhow::Result;
use libbpf_sys as sys;

use super::answer::{check, own};
use crate::interface::interface_index;

/// Opens a loaded program by its id.
pub fn program_by_id(id: u32) -> Result<OwnedFd> {
    // SAFETY: the call has no precondition and returns a new descriptor.
    Ok(unsafe { own(sys::bpf_prog_get_fd_by_id(id)) }?)
}

/// The size of a loaded program in bytes: after the verifier's rewrites (xlated), and as
/// machine code (jited).
pub fn size(program: &OwnedFd) -> Result<(u32, u32)> {
    let info = program_info(program, &mut [])?;
    Ok((info.xlated_prog_len, info.jited_prog_len))
}

/// The kernel's information about a program. Writes the ids of its maps to `map_ids`.
pub(super) fn program_info(program: &OwnedFd, map_ids: &mut [u32]) -> Result<sys::bpf_prog_info> {
    let mut info = sys::bpf_prog_info {
        nr_map_ids: map_ids.len() as u32,
        map_ids: map_ids.as_mut_ptr() as u64,
        ..Default::default()
    };
    let mut size = size_of_val(&info) as u32;
    // SAFETY: the kernel writes at most `size` bytes to `info` and at most `nr_map_ids` ids to
    // `map_ids`.
    check(unsafe { sys::bpf_prog_get_info_by_fd(program.as_raw_fd(), &mut info, &mut size) })?;
    Ok(info)
}

/// Attaches a program to an interface in the namespace of the calling thread. Dropping the
/// returned link detaches the program.
pub fn attach(program: &OwnedFd, interface: &str) -> Result<OwnedFd> {
    let index = interface_index(interface)?;
    // SAFETY: the null options mean "none", and the call returns a new descriptor.
    let link =
        unsafe { own(sys::bpf_link_create(program.as_raw_fd(), index, sys::BPF_XDP, ptr::null())) };
    Ok(link?)
}

/// The id of the XDP program on an interface in the namespace of the calling thread, or
/// `None` if the interface has no program.
pub fn attached_program(interface: &str) -> Result<Option<u32>> {
    let mut id = 0;
    // SAFETY: the call writes to `id` only.
    check(unsafe { sys::bpf_xdp_query_id(interface_index(interface)?, 0, &mut id) })?;
    Ok(Some(id).filter(|id| *id != 0))
}
