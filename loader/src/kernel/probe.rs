//! What this kernel can do, found by trying it.
//!
//! Each probe makes the smallest map or program that needs the feature and
//! throws it away again. Only the kernel's exact answer for "unsupported" counts
//! as no; any other failure is reported as such.

use std::io;
use std::os::fd::AsFd;

use libbpf_sys as sys;

use crate::error::XdpError;
use crate::kernel::libbpf::{create_map, instruction, load_program, run_program};
use crate::kernel::rights;
use crate::select::Support;

const MAP_FD: u8 = sys::BPF_PSEUDO_MAP_FD as u8;
const MAP_VALUE: u8 = sys::BPF_PSEUDO_MAP_VALUE as u8;
const LOAD_IMM64: u8 = (sys::BPF_LD | sys::BPF_IMM | sys::BPF_DW) as u8;
const MOV: u8 = (sys::BPF_ALU64 | sys::BPF_MOV | sys::BPF_K) as u8;
const CALL: u8 = (sys::BPF_JMP | sys::BPF_CALL) as u8;
const EXIT: u8 = (sys::BPF_JMP | sys::BPF_EXIT) as u8;
const JUMP_IF_EQUAL_32: u8 = (sys::BPF_JMP32 | sys::BPF_JEQ | sys::BPF_K) as u8;

/// Fails if there is no bpf() system call, or no right to use it.
pub fn bpf_available() -> Result<(), XdpError> {
    match create_map(sys::BPF_MAP_TYPE_ARRAY, 4, 1) {
        Ok(_) => Ok(()),
        Err(reason) if reason.raw_os_error() == Some(libc::ENOSYS) => {
            Err(XdpError::KernelWithoutBpf { reason })
        }
        Err(reason) if rights::is_denied(&reason) => Err(rights::denied(rights::LOAD)),
        // Out of memory, say: the object's own load will name what it lacks.
        Err(_) => Ok(()),
    }
}

/// Probes a feature by the name that manifests use; `None` for other names.
pub fn feature(name: &str) -> Option<Support> {
    let probe = match name {
        "cpumap" => cpumap(4),
        "cpumap_program" => cpumap(8),
        "global_data" => global_data(),
        "jmp32" => jmp32(),
        "redirect_verdict" => redirect_verdict(),
        _ => return None,
    };
    Some(probe.unwrap_or_else(|error| match error.raw_os_error() {
        Some(libc::EINVAL) => Support::No("EINVAL (invalid argument)".into()),
        _ => Support::Unknown(error),
    }))
}

/// CPU maps (Linux 4.15), and values with room for a second-stage program (5.9).
fn cpumap(value_size: u32) -> io::Result<Support> {
    create_map(sys::BPF_MAP_TYPE_CPUMAP, value_size, 1).map(|_| Support::Yes)
}

/// Programs that address a map's value directly (Linux 5.2).
fn global_data() -> io::Result<Support> {
    let map = create_map(sys::BPF_MAP_TYPE_ARRAY, 4, 1)?;
    let [address, upper] = load_map(1, MAP_VALUE, &map);
    load_program(&[address, upper, instruction(MOV, 0, 0, 0), instruction(EXIT, 0, 0, 0)])
        .map(|_| Support::Yes)
}

/// Jumps that compare 32 bits (Linux 5.1), the core of instruction set v3.
fn jmp32() -> io::Result<Support> {
    load_program(&[
        instruction(MOV, 0, 0, 0),
        instruction(JUMP_IF_EQUAL_32, 0, 0, 0),
        instruction(EXIT, 0, 0, 0),
    ])
    .map(|_| Support::Yes)
}

/// A verdict for CPUs without a queue in `bpf_redirect_map()` (Linux 5.3).
/// Older kernels load the program all the same, so it has to run: they abort.
fn redirect_verdict() -> io::Result<Support> {
    let cpu_map = create_map(sys::BPF_MAP_TYPE_CPUMAP, 4, 1)?;
    let [map, upper] = load_map(1, MAP_FD, &cpu_map);
    let program = load_program(&[
        map,
        upper,
        instruction(MOV, 2, 0, 0),
        instruction(MOV, 3, 0, sys::XDP_PASS as i32),
        instruction(CALL, 0, 0, sys::BPF_FUNC_redirect_map as i32),
        instruction(EXIT, 0, 0, 0),
    ])?;
    match run_program(program.as_fd(), &[0; 64])? {
        sys::XDP_PASS => Ok(Support::Yes),
        verdict => Ok(Support::No(format!("verdict {verdict} for a CPU without a queue"))),
    }
}

/// Loads a map, or its value's address, into a register.
fn load_map(register: u8, what: u8, map: &impl AsFd) -> [sys::bpf_insn; 2] {
    use std::os::fd::AsRawFd;
    let fd = map.as_fd().as_raw_fd();
    [instruction(LOAD_IMM64, register, what, fd), instruction(0, 0, 0, 0)]
}
