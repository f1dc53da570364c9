//! Older kernels, acted by this one: a seccomp filter answers bpf() commands the
//! way a kernel without them would. It holds for the calling thread, for good.
//!
//! The crates for this know no big-endian machine, hence these few instructions.

use std::io;
use std::mem::offset_of;

/// Has every bpf() call fail with `errno`.
pub fn deny_bpf(errno: i32) -> io::Result<()> {
    filter(&[
        load(offset_of!(libc::seccomp_data, nr)),
        unless(libc::SYS_bpf as u32, 1),
        deny(errno),
    ])
}

/// Has one bpf() command fail with `errno`.
pub fn deny_bpf_command(command: u32, errno: i32) -> io::Result<()> {
    // The command is the low half of the first argument.
    let low_half = if cfg!(target_endian = "big") { 4 } else { 0 };
    filter(&[
        load(offset_of!(libc::seccomp_data, nr)),
        unless(libc::SYS_bpf as u32, 3),
        load(offset_of!(libc::seccomp_data, args) + low_half),
        unless(command, 1),
        deny(errno),
    ])
}

fn instruction(code: u32, jf: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt: 0, jf, k }
}

/// Loads a word of the system call's description.
fn load(offset: usize) -> libc::sock_filter {
    instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, offset as u32)
}

/// Skips instructions unless the loaded word is `value`.
fn unless(value: u32, skip: u8) -> libc::sock_filter {
    instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, skip, value)
}

fn deny(errno: i32) -> libc::sock_filter {
    instruction(libc::BPF_RET | libc::BPF_K, 0, libc::SECCOMP_RET_ERRNO | errno as u32)
}

/// Applies the filter, which allows what `rules` do not answer.
fn filter(rules: &[libc::sock_filter]) -> io::Result<()> {
    let allow = instruction(libc::BPF_RET | libc::BPF_K, 0, libc::SECCOMP_RET_ALLOW);
    let mut code = [rules, &[allow]].concat();
    let program = libc::sock_fprog { len: code.len() as u16, filter: code.as_mut_ptr() };
    // SAFETY: affects only this thread; no pointer is passed.
    let answer = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    if answer != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel copies the program, whose length is stated.
    match unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &program) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
