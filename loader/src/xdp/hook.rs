//! Queries and changes the program on an interface through netlink.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use libbpf_sys as libbpf;

use crate::config::XdpAttachMode;
use crate::ids::InterfaceIndex;
use crate::sys::{bpf, xdp_attach};

/// The netlink flag of a mode. Only native and generic get here: the configuration refuses
/// offload, and the caller has replaced auto with native or generic.
pub fn mode_flag(mode: XdpAttachMode) -> u32 {
    match mode {
        XdpAttachMode::Generic => libbpf::XDP_FLAGS_SKB_MODE,
        _ => libbpf::XDP_FLAGS_DRV_MODE,
    }
}

/// Whether exactly this program is on the interface.
pub fn is_attached(index: InterfaceIndex, program: &OwnedFd) -> io::Result<bool> {
    let id = bpf::program_info(program)?.id;
    Ok(xdp_attach::attached_programs(index)?.iter().any(|(_, attached)| *attached == id))
}

/// Replaces a link's program `current` with `program`. Fails with EBUSY if `current` is not
/// attached. The kernel answers EPERM then, which would look like a missing capability.
pub fn exchange_in_link(
    index: InterfaceIndex,
    link: &OwnedFd,
    current: &OwnedFd,
    program: BorrowedFd,
) -> io::Result<()> {
    match xdp_attach::update_link(link, program, Some(current.as_fd())) {
        Err(error)
            if error.raw_os_error() == Some(libc::EPERM) && !is_attached(index, current)? =>
        {
            Err(io::Error::from_raw_os_error(libc::EBUSY))
        }
        answer => answer,
    }
}

/// Replaces `current` with `program`. Fails if `current` is not attached.
pub fn exchange(
    index: InterfaceIndex,
    mode: XdpAttachMode,
    current: &OwnedFd,
    program: BorrowedFd,
) -> io::Result<()> {
    let flags = mode_flag(mode);
    match xdp_attach::attach(index, program, flags, Some(current.as_fd())) {
        // Before Linux 5.7 the kernel cannot check that `current` is attached, and answers
        // EINVAL. This process then checks that itself, and replaces the program without the
        // kernel's check.
        Err(error)
            if error.raw_os_error() == Some(libc::EINVAL) && is_attached(index, current)? =>
        {
            xdp_attach::attach(index, program, flags, None)
        }
        answer => answer,
    }
}

/// Removes a program that no bpf_link holds, if it is attached.
pub fn remove(index: InterfaceIndex, program: &OwnedFd, mode: XdpAttachMode) -> io::Result<()> {
    let flags = mode_flag(mode);
    let Err(error) = xdp_attach::detach(index, Some(program.as_fd()), flags) else { return Ok(()) };
    if !is_attached(index, program)? {
        return Ok(()); // another process removed or replaced it
    }
    match error.raw_os_error() {
        // Before Linux 5.7 the kernel cannot check which program it detaches. `is_attached`
        // checked that above.
        Some(libc::EINVAL) => xdp_attach::detach(index, None, flags),
        _ => Err(error),
    }
}
