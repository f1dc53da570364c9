//! Attaches, replaces, detaches and queries XDP programs on interfaces of the calling
//! thread's network namespace, through a bpf_link or through netlink.
//!
//! `flags` are `XDP_FLAGS_*`. The flags give the mode. For netlink, they also say whether another
//! program may be replaced.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr;

use libbpf_sys as ffi;

use super::{check, owned_fd};
use crate::config::XdpAttachMode;
use crate::ids::InterfaceIndex;

/// Attaches through a bpf_link (Linux 5.9). The kernel detaches the program when the
/// link's last descriptor is closed.
pub fn create_link(
    program: impl AsFd,
    interface: InterfaceIndex,
    flags: u32,
) -> io::Result<OwnedFd> {
    let options = ffi::bpf_link_create_opts {
        sz: size_of::<ffi::bpf_link_create_opts>() as _,
        flags,
        ..Default::default()
    };
    let (program, interface) = (program.as_fd(), interface.get());
    // SAFETY: `program` is open during the call. `options` states its size, holds no
    // pointer and outlives the call. The answer is the new link's descriptor or a negative
    // errno.
    unsafe {
        let answer = ffi::bpf_link_create(program.as_raw_fd(), interface, ffi::BPF_XDP, &options);
        owned_fd(answer)
    }
}

/// Detaches a link at once. Closing the link's last descriptor also detaches the link, but the
/// kernel may do so later.
pub fn detach_link(link: impl AsFd) -> io::Result<()> {
    // SAFETY: `link` is open during the call, which takes no pointer.
    check(unsafe { ffi::bpf_link_detach(link.as_fd().as_raw_fd()) }).map(drop)
}

/// Replaces a link's program in one step. If `old` is given, fails with EPERM if the link's program
/// is not `old`.
pub fn update_link(
    link: impl AsFd,
    program: impl AsFd,
    old: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let (link, program) = (link.as_fd().as_raw_fd(), program.as_fd().as_raw_fd());
    let options = ffi::bpf_link_update_opts {
        sz: size_of::<ffi::bpf_link_update_opts>() as _,
        flags: old.map_or(0, |_| ffi::BPF_F_REPLACE),
        old_prog_fd: old.map_or(0, |old| old.as_raw_fd() as u32),
        ..Default::default()
    };
    // SAFETY: all descriptors are open during the call. `options` states its size, holds no
    // pointer and outlives the call.
    check(unsafe { ffi::bpf_link_update(link, program, &options) }).map(drop)
}

/// Attaches through netlink. The attachment outlives the process. If `old` is given, replaces
/// `old` in one step, and fails if the attached program is not `old` (needs Linux 5.7).
pub fn attach(
    interface: InterfaceIndex,
    program: impl AsFd,
    flags: u32,
    old: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let (interface, program) = (interface.get(), program.as_fd().as_raw_fd());
    let options = old.map(replacing);
    let options = options.as_ref().map_or(ptr::null(), ptr::from_ref);
    // SAFETY: `program` is open during the call, and so is the descriptor in `options`,
    // which is borrowed. `options` is null, or states its size, holds no pointer and
    // outlives the call.
    check(unsafe { ffi::bpf_xdp_attach(interface, program, flags, options) }).map(drop)
}

/// Detaches through netlink. If `only` is given, fails if the attached program is not `only`
/// (needs Linux 5.7).
pub fn detach(
    interface: InterfaceIndex,
    only: Option<BorrowedFd<'_>>,
    flags: u32,
) -> io::Result<()> {
    let options = only.map(replacing);
    let options = options.as_ref().map_or(ptr::null(), ptr::from_ref);
    // SAFETY: the descriptor in `options` is borrowed and therefore open during the call.
    // `options` is null, or states its size, holds no pointer and outlives the call.
    check(unsafe { ffi::bpf_xdp_detach(interface.get(), flags, options) }).map(drop)
}

/// Options that let the kernel compare the attached program with `old`.
fn replacing(old: BorrowedFd<'_>) -> ffi::bpf_xdp_attach_opts {
    ffi::bpf_xdp_attach_opts {
        sz: size_of::<ffi::bpf_xdp_attach_opts>() as _,
        old_prog_fd: old.as_raw_fd(),
        ..Default::default()
    }
}

/// The ids of the XDP programs on an interface, each with its mode. The kernel allows at most one
/// program in each mode, and does not allow native and generic mode at the same time.
pub fn attached_programs(interface: InterfaceIndex) -> io::Result<Vec<(XdpAttachMode, u32)>> {
    let mut query = ffi::bpf_xdp_query_opts {
        // The stated size excludes the fields after the ids. Those fields would cost a request to
        // another netlink family.
        sz: std::mem::offset_of!(ffi::bpf_xdp_query_opts, feature_flags) as _,
        ..Default::default()
    };
    // SAFETY: `query` states fewer bytes than it has, libbpf writes no more than the stated
    // bytes, and `query` outlives the call.
    check(unsafe { ffi::bpf_xdp_query(interface.get(), 0, &mut query) })?;
    let by_mode = [
        (XdpAttachMode::Native, query.drv_prog_id),
        (XdpAttachMode::Generic, query.skb_prog_id),
        (XdpAttachMode::Offload, query.hw_prog_id),
    ];
    let mut attached: Vec<_> = by_mode.into_iter().filter(|(_, id)| *id != 0).collect();
    // Old kernels report one id and its mode.
    if attached.is_empty() && query.prog_id != 0 {
        let mode = match u32::from(query.attach_mode) {
            ffi::XDP_ATTACHED_SKB => XdpAttachMode::Generic,
            ffi::XDP_ATTACHED_HW => XdpAttachMode::Offload,
            _ => XdpAttachMode::Native,
        };
        attached.push((mode, query.prog_id));
    }
    Ok(attached)
}
