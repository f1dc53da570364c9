//! Network interfaces of the calling thread's namespace.

use std::ffi::{CStr, c_int};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

use libbpf_sys as sys;

use super::{check, own};

/// The index of an interface in this thread's network namespace.
pub fn index(name: &CStr) -> io::Result<c_int> {
    // SAFETY: the name is a C string.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err(io::Error::last_os_error()),
        index => c_int::try_from(index).map_err(io::Error::other),
    }
}

/// Attaches through a bpf_link, which detaches when its last descriptor closes.
pub fn create_xdp_link(program: BorrowedFd, interface: c_int, flags: u32) -> io::Result<OwnedFd> {
    let options = sys::bpf_link_create_opts {
        sz: size_of::<sys::bpf_link_create_opts>() as _,
        flags,
        ..Default::default()
    };
    // SAFETY: the options are complete and hold no pointer.
    own(unsafe { sys::bpf_link_create(program.as_raw_fd(), interface, sys::BPF_XDP, &options) })
}

/// Detaches a link at once, where closing it may take a moment.
pub fn detach_link(link: BorrowedFd) -> io::Result<()> {
    // SAFETY: a plain system call on a descriptor.
    check(unsafe { sys::bpf_link_detach(link.as_raw_fd()) }).map(drop)
}

/// Puts another program behind a link, in one step.
pub fn update_link(link: BorrowedFd, program: BorrowedFd) -> io::Result<()> {
    // SAFETY: a plain system call on descriptors; the options are none.
    check(unsafe { sys::bpf_link_update(link.as_raw_fd(), program.as_raw_fd(), ptr::null()) })
        .map(drop)
}

/// Attaches through netlink; the attachment outlives the process. In the place of `old`
/// (Linux 5.7) in one step.
pub fn attach_xdp(
    interface: c_int,
    program: BorrowedFd,
    flags: u32,
    old: Option<BorrowedFd>,
) -> io::Result<()> {
    let options = old.map(replaces);
    let options = options.as_ref().map_or(ptr::null(), ptr::from_ref);
    // SAFETY: the options are null or complete.
    check(unsafe { sys::bpf_xdp_attach(interface, program.as_raw_fd(), flags, options) }).map(drop)
}

fn replaces(old: BorrowedFd) -> sys::bpf_xdp_attach_opts {
    sys::bpf_xdp_attach_opts {
        sz: size_of::<sys::bpf_xdp_attach_opts>() as _,
        old_prog_fd: old.as_raw_fd(),
        ..Default::default()
    }
}

/// Detaches through netlink, if `only` (where given; Linux 5.7) is attached.
pub fn detach_xdp(interface: c_int, only: Option<BorrowedFd>, flags: u32) -> io::Result<()> {
    let options = only.map(replaces);
    let options = options.as_ref().map_or(ptr::null(), ptr::from_ref);
    // SAFETY: the options are null or complete.
    check(unsafe { sys::bpf_xdp_detach(interface, flags, options) }).map(drop)
}

/// The id of the XDP program on an interface, in whatever mode.
pub fn attached_program(interface: c_int) -> io::Result<Option<u32>> {
    let mut query = sys::bpf_xdp_query_opts {
        // Without the fields after the ids, which ask another netlink family.
        sz: std::mem::offset_of!(sys::bpf_xdp_query_opts, feature_flags) as _,
        ..Default::default()
    };
    // SAFETY: the kernel's answer fits the stated size.
    check(unsafe { sys::bpf_xdp_query(interface, 0, &mut query) })?;
    let ids = [query.prog_id, query.drv_prog_id, query.skb_prog_id, query.hw_prog_id];
    Ok(ids.into_iter().find(|id| *id != 0))
}

/// The name of an interface's driver, as `ethtool -i` prints it; `None` if it tells
/// none.
pub fn driver(name: &CStr) -> Option<String> {
    /// Of the kernel's `linux/sockios.h` and `linux/ethtool.h`.
    const SIOCETHTOOL: libc::c_ulong = 0x8946;
    const ETHTOOL_GDRVINFO: u32 = 3;
    /// `struct ethtool_drvinfo`, of which the driver's name is all that is wanted.
    #[repr(C)]
    struct DriverInfo {
        command: u32,
        driver: [u8; 32],
        rest: [u8; 160],
    }

    // SAFETY: plain values.
    let socket = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if socket < 0 {
        return None;
    }
    // SAFETY: a new descriptor of ours.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    let mut info = DriverInfo { command: ETHTOOL_GDRVINFO, driver: [0; 32], rest: [0; 160] };
    // SAFETY: a zeroed request is valid: an empty name and a null pointer.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.to_bytes_with_nul()) {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_data = (&raw mut info).cast();
    // SAFETY: the request names the interface and points to as much as the kernel writes
    // for this command; both outlive the call.
    let answer = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL as _, &raw mut request) };
    let name = CStr::from_bytes_until_nul(&info.driver).ok()?;
    (answer == 0).then(|| name.to_string_lossy().into_owned())
}
