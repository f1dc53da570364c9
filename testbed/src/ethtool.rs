//! Reads and writes two settings of an interface with the `SIOCETHTOOL` ioctl.

use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsRawFd;

use anyhow::{Context, Result};

use crate::sys::check;

/// A setting: its name, the command that reads it and the command that writes it. The
/// commands are from `linux/ethtool.h`.
pub(crate) type Setting = (&'static str, u32, u32);

/// Transmit checksum offload.
pub(crate) const TX_CHECKSUM: Setting = ("tx checksum", 0x16, 0x17);
/// Generic receive offload: the kernel merges packets of one flow.
pub(crate) const GRO: Setting = ("gro", 0x2b, 0x2c);

/// Reads a setting of an interface in the network namespace of the calling thread.
pub(crate) fn get(interface: &str, setting: Setting) -> Result<u32> {
    let (name, command, _) = setting;
    call(interface, command, 0).with_context(|| format!("{interface}: read {name}"))
}

/// Writes a setting of an interface in the network namespace of the calling thread.
pub(crate) fn set(interface: &str, setting: Setting, value: u32) -> Result<()> {
    let (name, _, command) = setting;
    let result = call(interface, command, value);
    result.map(|_| ()).with_context(|| format!("{interface}: set {name} to {value}"))
}

fn call(interface: &str, command: u32, value: u32) -> io::Result<u32> {
    /// From `linux/sockios.h`.
    const SIOCETHTOOL: libc::c_ulong = 0x8946;

    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    let mut command = [command, value];
    // SAFETY: a zeroed request is valid: its name is empty and its pointer is null.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_data = command.as_mut_ptr().cast();
    // SAFETY: the request names the interface and points to a complete command. Both outlive
    // the call.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL as _, &raw mut request) })?;
    Ok(command[1])
}
