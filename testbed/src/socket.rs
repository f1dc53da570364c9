//! Socket options that neither `std` nor `socket2` offers.

use std::io;
use std::os::fd::AsRawFd;
use std::ptr;

use crate::sys::check;

/// Attaches a classic BPF program to a reuseport group. The program reads the payload of a datagram
/// and returns the index of the socket that receives the datagram. Each instruction is a code and
/// an operand; jumps are not supported.
pub fn select_in_group(socket: &impl AsRawFd, program: &[(u16, u32)]) -> io::Result<()> {
    let instruction = |&(code, k): &(u16, u32)| libc::sock_filter { code, jt: 0, jf: 0, k };
    let mut code: Vec<libc::sock_filter> = program.iter().map(instruction).collect();
    let program = libc::sock_fprog { len: code.len() as u16, filter: code.as_mut_ptr() };
    // SAFETY: the option takes a `sock_fprog`, and `program` points to `len` instructions.
    unsafe { set_option(socket, libc::SO_ATTACH_REUSEPORT_CBPF, &program) }
}

/// Sets the size of a socket's receive buffer in bytes. The size may exceed
/// `net.core.rmem_max`.
pub fn set_receive_buffer(socket: &impl AsRawFd, bytes: libc::c_int) -> io::Result<()> {
    // SAFETY: the option takes an integer.
    unsafe { set_option(socket, libc::SO_RCVBUFFORCE, &bytes) }
}

/// Sets an option of level `SOL_SOCKET`.
///
/// # Safety
///
/// `Value` is the type that the option takes, and the pointers in it are valid.
unsafe fn set_option<Value>(
    socket: &impl AsRawFd,
    option: libc::c_int,
    value: &Value,
) -> io::Result<()> {
    // SAFETY: the pointer and the size describe `value`, and the kernel copies the value.
    let answer = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            ptr::from_ref(value).cast(),
            size_of::<Value>() as libc::socklen_t,
        )
    };
    check(answer).map(|_| ())
}
