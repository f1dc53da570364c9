//! Socket options that the standard library and socket2 lack: buffers beyond the system's limit,
//! drop counters, the peer's user, and programs that filter a socket or select a socket of a
//! reuseport group.

use std::ffi::{c_int, c_void};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr;

use super::check_errno;

/// One instruction of a classic BPF program.
pub use libc::sock_filter as ClassicInstruction;

/// `SO_MEMINFO` returns an array. These two constants are the index of the drop counter in the
/// array, and the array's length (the kernel's `linux/sock_diag.h`).
const SK_MEMINFO_DROPS: usize = 8;
const SK_MEMINFO_VARS: usize = 9;

/// Sets the size of the receive buffer, even above the system's limit `net.core.rmem_max`. Needs
/// CAP_NET_ADMIN.
pub fn force_receive_buffer(socket: impl AsFd, bytes: u32) -> io::Result<()> {
    set_integer(socket, libc::SO_RCVBUFFORCE, c_int::try_from(bytes).unwrap_or(c_int::MAX))
}

/// The number of datagrams that the socket dropped: because its filter refused them, because its
/// buffer was full, or because their checksum was wrong. The number wraps around. Needs Linux
/// 4.12.
pub fn drops(socket: impl AsFd) -> io::Result<u32> {
    get::<SK_MEMINFO_VARS>(socket, libc::SO_MEMINFO).map(|info| info[SK_MEMINFO_DROPS])
}

/// The user of the process at the other end of a Unix socket, as of the time when the sockets
/// were connected.
pub fn peer_user(socket: impl AsFd) -> io::Result<u32> {
    // struct ucred: process, user, group.
    get::<3>(socket, libc::SO_PEERCRED).map(|[_, user, _]| user)
}

/// Replaces a socket's filter with a classic program.
pub fn set_classic_filter(socket: impl AsFd, code: &[ClassicInstruction]) -> io::Result<()> {
    set_classic(socket, libc::SO_ATTACH_FILTER, code)
}

/// Makes a classic program select the socket of a reuseport group.
pub fn set_classic_selection(socket: impl AsFd, code: &[ClassicInstruction]) -> io::Result<()> {
    set_classic(socket, libc::SO_ATTACH_REUSEPORT_CBPF, code)
}

/// Replaces a socket's filter with a loaded eBPF program.
pub fn set_filter(socket: impl AsFd, program: impl AsFd) -> io::Result<()> {
    set_integer(socket, libc::SO_ATTACH_BPF, program.as_fd().as_raw_fd())
}

/// Makes a loaded eBPF program select the socket of a reuseport group.
pub fn set_selection(socket: impl AsFd, program: impl AsFd) -> io::Result<()> {
    set_integer(socket, libc::SO_ATTACH_REUSEPORT_EBPF, program.as_fd().as_raw_fd())
}

/// Sets an option whose value is an integer, possibly a descriptor.
fn set_integer(socket: impl AsFd, option: c_int, value: c_int) -> io::Result<()> {
    // SAFETY: the option's value is an `int`, and `value` is one that outlives the call.
    unsafe { set(socket, option, &value) }
}

/// Sets an option whose value is a classic program.
fn set_classic(socket: impl AsFd, option: c_int, code: &[ClassicInstruction]) -> io::Result<()> {
    let len = u16::try_from(code.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let program = libc::sock_fprog { len, filter: code.as_ptr().cast_mut() };
    // SAFETY: the option's value is a `sock_fprog`, and `program` is one. Its pointer
    // points to `code`, which has `len` instructions; the kernel copies them, verifies the
    // copy and does not write to `code`. Both outlive the call.
    unsafe { set(socket, option, &program) }
}

/// Sets a socket option.
///
/// # Safety
/// `Value` is the type that the kernel reads for the option, and the pointers in `value`
/// are valid for what the kernel does with them during the call.
unsafe fn set<Value>(socket: impl AsFd, option: c_int, value: &Value) -> io::Result<()> {
    let (start, size) = (ptr::from_ref(value).cast::<c_void>(), size_of::<Value>() as _);
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: `fd` is open during the call. The kernel reads at most `size` bytes at
    // `start`, which is a `Value` of that size; pointers in it are valid by this function's
    // contract.
    check_errno(unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, option, start, size) }).map(drop)
}

/// Reads an option that is an array of 32-bit integers.
fn get<const N: usize>(socket: impl AsFd, option: c_int) -> io::Result<[u32; N]> {
    let mut value = [0u32; N];
    let mut size = size_of_val(&value) as libc::socklen_t;
    let (fd, to) = (socket.as_fd().as_raw_fd(), value.as_mut_ptr().cast());
    // SAFETY: `fd` is open during the call. The kernel writes at most `size` bytes to `to`,
    // which is `value` of that size; any bytes are valid integers.
    check_errno(unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, option, to, &mut size) })?;
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;
    use std::os::unix::net::UnixStream;

    /// A filter that drops everything.
    const CLOSED: [ClassicInstruction; 1] =
        [ClassicInstruction { code: (libc::BPF_RET | libc::BPF_K) as u16, jt: 0, jf: 0, k: 0 }];

    #[test]
    fn datagrams_that_a_classic_filter_refuses_count_as_drops() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        set_classic_filter(&socket, &CLOSED).unwrap();
        for _ in 0..3 {
            socket.send_to(b"refused", socket.local_addr().unwrap()).unwrap();
        }
        assert_eq!(drops(&socket).unwrap(), 3);
    }

    #[test]
    fn classic_programs_that_do_not_fit_are_refused() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let code = vec![CLOSED[0]; usize::from(u16::MAX) + 1];
        let error = set_classic_filter(&socket, &code).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn the_peer_of_a_socket_pair_is_this_process() {
        let (socket, _peer) = UnixStream::pair().unwrap();
        let process = std::fs::metadata("/proc/self").unwrap();
        let user = std::os::unix::fs::MetadataExt::uid(&process);
        assert_eq!(peer_user(&socket).unwrap(), user);
    }
}
