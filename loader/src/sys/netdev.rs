//! Finds the index and the driver of an interface in the calling thread's network namespace.

use std::ffi::CStr;
use std::io;
use std::os::fd::AsRawFd;

use socket2::{Domain, Socket, Type};

use super::check_errno;
use crate::ids::InterfaceIndex;

/// The index of an interface. `ENODEV` if no interface has this name.
pub fn index(name: &CStr) -> io::Result<InterfaceIndex> {
    // SAFETY: `name` is a C string that outlives the call.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err(io::Error::last_os_error()),
        index => i32::try_from(index).map(InterfaceIndex::new).map_err(io::Error::other),
    }
}

/// The name of an interface's driver, as `ethtool -i` prints it; `None` if the driver does
/// not report it.
pub fn driver(name: &CStr) -> Option<String> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).ok()?;
    let mut info = DriverInfo { command: ETHTOOL_GDRVINFO, driver: [0; 32], rest: [0; 160] };
    // SAFETY: `ifreq` is plain data for which zeros are valid: an empty name and a null
    // pointer.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.to_bytes_with_nul()) {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_data = (&raw mut info).cast();
    let (fd, request) = (socket.as_raw_fd(), &raw mut request);
    // SAFETY: `fd` is open during the call. `request` points to a whole `ifreq`, whose data
    // pointer points to `info`, a whole `struct ethtool_drvinfo`. The kernel reads the command in
    // `info`, and for ETHTOOL_GDRVINFO writes at most one such struct. `request` and `info`
    // outlive the call.
    check_errno(unsafe { libc::ioctl(fd, SIOCETHTOOL as _, request) }).ok()?;
    let driver = CStr::from_bytes_until_nul(&info.driver).ok()?;
    Some(driver.to_string_lossy().into_owned())
}

/// From the kernel's `linux/sockios.h`.
const SIOCETHTOOL: libc::c_ulong = 0x8946;
/// From the kernel's `linux/ethtool.h`.
const ETHTOOL_GDRVINFO: u32 = 3;

/// `struct ethtool_drvinfo` of the kernel's `linux/ethtool.h`.
#[repr(C)]
struct DriverInfo {
    command: u32,
    driver: [u8; 32],
    /// Versions, the bus address and sizes, which nothing here needs.
    rest: [u8; 160],
}

const _: () = assert!(size_of::<DriverInfo>() == 196);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_are_found_by_name() {
        assert_eq!(index(c"lo").unwrap(), InterfaceIndex::new(1));
        let error = index(c"no-such-one").unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENODEV));
        assert_eq!(driver(c"no-such-one"), None);
    }
}
