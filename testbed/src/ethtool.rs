//! What `ethtool` does, for two settings.

use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsRawFd;

use anyhow::{Context, Result};

/// A setting: its name, and the commands that read and write it, of the kernel's
/// `linux/ethtool.h`.
pub(crate) type Setting = (&'static str, u32, u32);

/// The sender's card computes checksums.
pub(crate) const TX_CHECKSUM: Setting = ("tx checksum", 0x16, 0x17);
/// Packets that belong together are received as one (GRO).
pub(crate) const RECEIVE_MERGED: Setting = ("gro", 0x2b, 0x2c);

/// Reads a setting of an interface of this thread's namespace.
pub(crate) fn get(interface: &str, setting: Setting) -> Result<u32> {
    let (name, command, _) = setting;
    call(interface, command, 0).with_context(|| format!("{interface}: read {name}"))
}

/// Writes it.
pub(crate) fn set(interface: &str, setting: Setting, value: u32) -> Result<()> {
    let (name, _, command) = setting;
    let result = call(interface, command, value);
    result.map(|_| ()).with_context(|| format!("{interface}: set {name} to {value}"))
}

fn call(interface: &str, command: u32, value: u32) -> io::Result<u32> {
    /// Of the kernel's `linux/sockios.h`.
    const SIOCETHTOOL: libc::c_ulong = 0x8946;

    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    let mut command = [command, value];
    // SAFETY: a zeroed request is valid: an empty name and a null pointer.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_data = command.as_mut_ptr().cast();
    // SAFETY: the request names the interface and points to a whole command,
    // and both outlive the call.
    let answer = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL as _, &raw mut request) };
    if answer == 0 { Ok(command[1]) } else { Err(io::Error::last_os_error()) }
}
