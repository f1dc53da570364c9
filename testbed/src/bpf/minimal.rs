//! Minimal XDP programs, as a baseline for measurements.

use std::ffi::CStr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr;

use anyhow::Result;
use libbpf_sys as sys;

use super::answer::{check, own};

/// Loads a program that only returns `verdict`.
pub fn empty_program(name: &CStr, verdict: u32) -> Result<OwnedFd> {
    load(
        name,
        &[
            instruction(sys::BPF_ALU64 | sys::BPF_MOV, 0, 0, verdict as i32),
            instruction(sys::BPF_JMP | sys::BPF_EXIT, 0, 0, 0),
        ],
    )
}

/// Loads a program that redirects every packet to CPU 0. Returns the program and its CPU map.
pub fn empty_redirect() -> Result<(OwnedFd, OwnedFd)> {
    // SAFETY: the null name and null options mean "none", and the call returns a new descriptor.
    let map = unsafe {
        own(sys::bpf_map_create(sys::BPF_MAP_TYPE_CPUMAP, ptr::null(), 4, 8, 1, ptr::null()))
    }?;
    let (cpu, queue) = (0u32, [192u32, 0]);
    // SAFETY: the key has 4 bytes and the value 8 bytes, as in the `bpf_map_create` call.
    check(unsafe {
        let (key, value) = ((&raw const cpu).cast(), queue.as_ptr().cast());
        sys::bpf_map_update_elem(map.as_raw_fd(), key, value, 0)
    })?;
    let program = load(
        c"empty_redirect",
        &[
            instruction(sys::BPF_LD | sys::BPF_IMM | sys::BPF_DW, 1, 1, map.as_raw_fd()),
            instruction(0, 0, 0, 0),
            instruction(sys::BPF_ALU64 | sys::BPF_MOV, 2, 0, 0),
            instruction(sys::BPF_ALU64 | sys::BPF_MOV, 3, 0, sys::XDP_PASS as i32),
            instruction(sys::BPF_JMP | sys::BPF_CALL, 0, 0, sys::BPF_FUNC_redirect_map as i32),
            instruction(sys::BPF_JMP | sys::BPF_EXIT, 0, 0, 0),
        ],
    )?;
    Ok((program, map))
}

fn instruction(code: u32, to: u8, from: u8, immediate: i32) -> sys::bpf_insn {
    let mut instruction = sys::bpf_insn { code: code as u8, imm: immediate, ..Default::default() };
    instruction.set_dst_reg(to);
    instruction.set_src_reg(from);
    instruction
}

fn load(name: &CStr, program: &[sys::bpf_insn]) -> Result<OwnedFd> {
    // SAFETY: the strings are C strings, `program` has the length that is passed, the null
    // options mean "none", and the call returns a new descriptor.
    Ok(unsafe {
        own(sys::bpf_prog_load(
            sys::BPF_PROG_TYPE_XDP,
            name.as_ptr(),
            c"GPL".as_ptr(),
            program.as_ptr(),
            program.len() as _,
            ptr::null_mut(),
        ))
    }?)
}
