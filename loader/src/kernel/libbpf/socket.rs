//! Options of sockets that no library offers, waiting, and the thread's CPU.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::ptr;
use std::time::Duration;

pub use libc::sock_filter as ClassicInstruction;

/// Position of the number of drops in what `SO_MEMINFO` gives, and how many there are
/// (the kernel's `linux/sock_diag.h`).
const SK_MEMINFO_DROPS: usize = 8;
const SK_MEMINFO_VARS: usize = 9;

fn set<Value>(socket: BorrowedFd, option: libc::c_int, value: &Value) -> io::Result<()> {
    let (value, size) = (ptr::from_ref(value).cast(), size_of::<Value>() as libc::socklen_t);
    // SAFETY: the kernel reads `size` bytes at `value`, which is that large.
    match unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, option, value, size) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Reads an option that is an array of integers.
fn get<const N: usize>(socket: BorrowedFd, option: libc::c_int) -> io::Result<[u32; N]> {
    let mut value = [0u32; N];
    let mut size = size_of_val(&value) as libc::socklen_t;
    let to = value.as_mut_ptr().cast();
    // SAFETY: the kernel writes at most `size` bytes to `to`, which has as many.
    match unsafe { libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, option, to, &mut size) } {
        0 => Ok(value),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Sets the size of the receive buffer beyond the system's limit (CAP_NET_ADMIN).
pub fn force_receive_buffer(socket: BorrowedFd, bytes: u32) -> io::Result<()> {
    set(socket, libc::SO_RCVBUFFORCE, &bytes.min(i32::MAX as u32))
}

/// Datagrams that a socket did not take: its filter's, those that found its buffer full,
/// and those with a wrong checksum. Wraps around. Linux 4.12.
pub fn drops(socket: BorrowedFd) -> io::Result<u32> {
    get::<SK_MEMINFO_VARS>(socket, libc::SO_MEMINFO).map(|info| info[SK_MEMINFO_DROPS])
}

/// The user on the other side of a Unix socket, as it was when the two were connected.
pub fn peer_user(socket: BorrowedFd) -> io::Result<u32> {
    // struct ucred: process, user, group.
    get::<3>(socket, libc::SO_PEERCRED).map(|[_, user, _]| user)
}

/// Replaces a socket's filter by a classic program.
pub fn set_classic_filter(socket: BorrowedFd, code: &mut [ClassicInstruction]) -> io::Result<()> {
    set(socket, libc::SO_ATTACH_FILTER, &classic(code)?)
}

/// Has a classic program choose the sockets of a group.
pub fn set_classic_selection(
    socket: BorrowedFd,
    code: &mut [ClassicInstruction],
) -> io::Result<()> {
    set(socket, libc::SO_ATTACH_REUSEPORT_CBPF, &classic(code)?)
}

/// The kernel copies the code that this points to.
fn classic(code: &mut [ClassicInstruction]) -> io::Result<libc::sock_fprog> {
    let length = u16::try_from(code.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    Ok(libc::sock_fprog { len: length, filter: code.as_mut_ptr() })
}

/// Replaces a socket's filter by a loaded program.
pub fn set_filter(socket: BorrowedFd, program: &OwnedFd) -> io::Result<()> {
    set(socket, libc::SO_ATTACH_BPF, &program.as_raw_fd())
}

/// Has a loaded program choose the sockets of a group.
pub fn set_selection(socket: BorrowedFd, program: &OwnedFd) -> io::Result<()> {
    set(socket, libc::SO_ATTACH_REUSEPORT_EBPF, &program.as_raw_fd())
}

/// Waits until one of two descriptors can be read, or for so long. Interrupted waits end
/// early.
pub fn wait(descriptors: [BorrowedFd; 2], timeout: Duration) -> io::Result<()> {
    let mut polled =
        descriptors.map(|fd| libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 });
    // Rounded up, so that a short wait is none that spins.
    let milliseconds = timeout.as_micros().div_ceil(1000).try_into().unwrap_or(i32::MAX);
    // SAFETY: two entries, which outlive the call.
    if unsafe { libc::poll(polled.as_mut_ptr(), 2, milliseconds) } >= 0 {
        return Ok(());
    }
    match io::Error::last_os_error() {
        error if error.kind() == io::ErrorKind::Interrupted => Ok(()),
        error => Err(error),
    }
}

/// Binds the calling thread to one CPU.
pub fn pin_thread(cpu: u32) -> io::Result<()> {
    // SAFETY: a zeroed set is an empty one.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    if cpu as usize >= 8 * size_of_val(&set) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: within the set, as just checked.
    unsafe { libc::CPU_SET(cpu as usize, &mut set) };
    // SAFETY: concerns this thread only; the set has the stated size.
    match unsafe { libc::sched_setaffinity(0, size_of_val(&set), &set) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Waits until whatever ran in the kernel on any CPU without being able to wait, such as
/// a network card's poll with the programs in it, has come to its end: an RCU grace
/// period. Linux 4.3; not where CPUs run without a tick (`nohz_full`).
pub fn wait_for_running_programs() -> io::Result<()> {
    // SAFETY: no pointers; the command is `MEMBARRIER_CMD_GLOBAL`.
    match unsafe { libc::syscall(libc::SYS_membarrier, 1, 0, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
