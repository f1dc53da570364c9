//! An XDP program that redirects every packet to the queue of one CPU.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use libbpf_sys as libbpf;

use crate::ids::CpuId;
use crate::sys::bpf::{self, Instruction, Register};

/// Loads the program. The program passes packets to the network stack if the CPU has no queue in
/// the map. If another program already uses the map, `multi_buffer` must have the value that was
/// used to load that program; otherwise loading fails with EINVAL (seen on 6.18).
pub fn redirect_program(
    cpu_map: &impl AsFd,
    cpu: CpuId,
    multi_buffer: bool,
) -> io::Result<OwnedFd> {
    let [map, map_upper] = Instruction::load_map(Register::R1, cpu_map);
    let code = [
        map,
        map_upper,
        Instruction::set(Register::R2, cpu.get() as i32),
        Instruction::set(Register::R3, libbpf::XDP_PASS as i32),
        Instruction::call(libbpf::BPF_FUNC_redirect_map),
        Instruction::exit(),
    ];
    let flags = if multi_buffer { libbpf::BPF_F_XDP_HAS_FRAGS } else { 0 };
    bpf::load_program(libbpf::BPF_PROG_TYPE_XDP, flags, &code)
}
