//! Emulates older kernels: a seccomp filter makes bpf() commands fail with the error of a
//! kernel that lacks them. The filter applies to the calling thread and cannot be removed.
//!
//! The tests use this module instead of a seccomp crate, because the existing crates do not
//! support big-endian machines.

use std::io;
use std::mem::offset_of;

use crate::sys::check;

/// Makes every bpf() call of this thread fail with `errno`.
pub fn deny_bpf(errno: i32) -> io::Result<()> {
    apply(&[load(offset_of!(libc::seccomp_data, nr)), unless(libc::SYS_bpf as u32, 1), deny(errno)])
}

/// Makes one bpf() command fail with `errno` for this thread.
pub fn deny_bpf_command(command: u32, errno: i32) -> io::Result<()> {
    // The command is the low half of the first argument, which has 64 bits.
    let low_half = if cfg!(target_endian = "big") { 4 } else { 0 };
    apply(&[
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

/// Loads a word of `struct seccomp_data`.
fn load(offset: usize) -> libc::sock_filter {
    instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, offset as u32)
}

/// Skips the next `skip` instructions unless the loaded word is `value`.
fn unless(value: u32, skip: u8) -> libc::sock_filter {
    instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, skip, value)
}

fn deny(errno: i32) -> libc::sock_filter {
    instruction(libc::BPF_RET | libc::BPF_K, 0, libc::SECCOMP_RET_ERRNO | errno as u32)
}

/// Applies `rules`. The filter allows every call that no rule denies.
fn apply(rules: &[libc::sock_filter]) -> io::Result<()> {
    let allow = instruction(libc::BPF_RET | libc::BPF_K, 0, libc::SECCOMP_RET_ALLOW);
    let mut code = [rules, &[allow]].concat();
    let program = libc::sock_fprog { len: code.len() as u16, filter: code.as_mut_ptr() };
    // SAFETY: the call affects this thread only and takes no pointer.
    check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })?;
    let filter = libc::SECCOMP_MODE_FILTER;
    // SAFETY: `program` points to `len` instructions, and the kernel copies them.
    check(unsafe { libc::prctl(libc::PR_SET_SECCOMP, filter, &program) }).map(|_| ())
}
