//! What this kernel can do, found by trying it.
//!
//! Each probe makes the smallest map or program that needs the feature and throws
//! it away again. Only the kernel's exact answer for "unsupported" counts as no,
//! and only if the same without the feature is accepted; any other failure is
//! reported as such. Where a socket filter shows the same as an XDP program it is
//! one, because that may need no rights.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use laminar_xdp_prebuilt::Feature;
use libbpf_sys as sys;

use crate::error::XdpError;
use crate::kernel::libbpf::{create_map, instruction, load_program, run_program};
use crate::kernel::rights;
use crate::select::{FeatureAnswer, Support};

const MAP_FD: u8 = sys::BPF_PSEUDO_MAP_FD as u8;
const MAP_VALUE: u8 = sys::BPF_PSEUDO_MAP_VALUE as u8;
const LOAD_IMM64: u8 = (sys::BPF_LD | sys::BPF_IMM | sys::BPF_DW) as u8;
const MOV: u8 = (sys::BPF_ALU64 | sys::BPF_MOV | sys::BPF_K) as u8;
const CALL: u8 = (sys::BPF_JMP | sys::BPF_CALL) as u8;
const EXIT: u8 = (sys::BPF_JMP | sys::BPF_EXIT) as u8;
const JUMP_IF_EQUAL_32: u8 = (sys::BPF_JMP32 | sys::BPF_JEQ | sys::BPF_K) as u8;

/// Fails if there is no bpf() system call, or no right to use it.
pub fn bpf_available() -> Result<(), XdpError> {
    match create_map(sys::BPF_MAP_TYPE_ARRAY, (4, 4), 1) {
        Ok(_) => Ok(()),
        Err(reason) if reason.raw_os_error() == Some(libc::ENOSYS) => {
            Err(XdpError::KernelWithoutBpf { reason })
        }
        Err(reason) if rights::is_denied(&reason) => Err(rights::denied(rights::LOAD)),
        // Out of memory, say: the object's own load will name what it lacks.
        Err(_) => Ok(()),
    }
}

/// The kernel's answers so far; each feature is asked for once. They are kept for
/// one load only: the kernel stays the same, but the rights of who asks may not.
#[derive(Debug, Default)]
pub struct Probes(BTreeMap<Feature, Support>);

impl Probes {
    /// Whether the kernel has a feature.
    pub fn ask(&mut self, feature: Feature) -> Support {
        self.0.entry(feature).or_insert_with(|| probe(feature)).clone()
    }

    /// What was asked and answered, oldest feature first.
    pub fn into_answers(self) -> Vec<FeatureAnswer> {
        self.0.into_iter().map(|(feature, support)| FeatureAnswer { feature, support }).collect()
    }
}

fn probe(feature: Feature) -> Support {
    let answer = match feature {
        Feature::Cpumap => map(sys::BPF_MAP_TYPE_CPUMAP, 4),
        Feature::SkReuseport => map(sys::BPF_MAP_TYPE_REUSEPORT_SOCKARRAY, 4),
        Feature::Jmp32 => jmp32(),
        Feature::GlobalData => global_data(),
        Feature::RedirectVerdict => return redirect_verdict().unwrap_or_else(unknown),
        Feature::Ringbuf => ring_buffer(),
        Feature::CpumapProgram => map(sys::BPF_MAP_TYPE_CPUMAP, 8),
        Feature::Frags => program(sys::BPF_PROG_TYPE_XDP, sys::BPF_F_XDP_HAS_FRAGS, &NOTHING),
        // A feature of a newer manifest crate than this library was made for.
        _ => Err(io::ErrorKind::Unsupported.into()),
    };
    // The same without the feature: if that fails too, the answer says nothing.
    let control = || match feature {
        Feature::SkReuseport => map(sys::BPF_MAP_TYPE_ARRAY, 4),
        _ => {
            map(sys::BPF_MAP_TYPE_ARRAY, 4)?;
            program(sys::BPF_PROG_TYPE_XDP, 0, &NOTHING)
        }
    };
    match answer {
        Ok(()) => Support::Yes,
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) && control().is_ok() => {
            Support::No("EINVAL".into())
        }
        Err(error) => unknown(error),
    }
}

fn unknown(error: io::Error) -> Support {
    Support::Unknown(error.to_string())
}

/// A program that returns at once.
const NOTHING: [Instruction; 2] = [(MOV, 0, 0, 0), (EXIT, 0, 0, 0)];

/// Code, register to, register from, immediate.
type Instruction = (u8, u8, u8, i32);

fn program(kind: sys::bpf_prog_type, flags: u32, code: &[Instruction]) -> io::Result<()> {
    let code: Vec<_> =
        code.iter().map(|&(code, to, from, i)| instruction(code, to, from, i)).collect();
    load_program(kind, flags, &code).map(drop)
}

fn map(kind: sys::bpf_map_type, value_size: u32) -> io::Result<()> {
    create_map(kind, (4, value_size), 1).map(drop)
}

/// Has neither keys nor values, and a size that is a multiple of any machine's pages.
fn ring_buffer() -> io::Result<()> {
    create_map(sys::BPF_MAP_TYPE_RINGBUF, (0, 0), 1 << 16).map(drop)
}

fn jmp32() -> io::Result<()> {
    let code = [NOTHING[0], (JUMP_IF_EQUAL_32, 0, 0, 0), NOTHING[1]];
    program(sys::BPF_PROG_TYPE_SOCKET_FILTER, 0, &code)
}

fn global_data() -> io::Result<()> {
    let map = create_map(sys::BPF_MAP_TYPE_ARRAY, (4, 4), 1)?;
    let [address, upper] = load_map(MAP_VALUE, &map);
    program(sys::BPF_PROG_TYPE_SOCKET_FILTER, 0, &[address, upper, NOTHING[0], NOTHING[1]])
}

/// Older kernels load the program all the same, so it has to run: they abort.
fn redirect_verdict() -> io::Result<Support> {
    let cpu_map = create_map(sys::BPF_MAP_TYPE_CPUMAP, (4, 4), 1)?;
    let program = redirect_program(&cpu_map, 0, false)?;
    match run_program(program.as_fd(), &[0; 64])? {
        sys::XDP_PASS => Ok(Support::Yes),
        verdict => Ok(Support::No(format!("verdict {verdict} for a CPU without a queue"))),
    }
}

/// An XDP program that redirects whatever comes to the queue of one CPU, and passes it
/// where there is none. It has to be multi-buffer if the program is that uses the map
/// already (seen on 6.18: EINVAL).
pub fn redirect_program(cpu_map: &impl AsFd, cpu: u32, multi_buffer: bool) -> io::Result<OwnedFd> {
    let [map, upper] = load_map(MAP_FD, cpu_map);
    let code = [
        map,
        upper,
        (MOV, 2, 0, cpu as i32),
        (MOV, 3, 0, sys::XDP_PASS as i32),
        (CALL, 0, 0, sys::BPF_FUNC_redirect_map as i32),
        (EXIT, 0, 0, 0),
    ]
    .map(|(code, to, from, i)| instruction(code, to, from, i));
    let flags = if multi_buffer { sys::BPF_F_XDP_HAS_FRAGS } else { 0 };
    load_program(sys::BPF_PROG_TYPE_XDP, flags, &code)
}

/// Loads a map, or its value's address, into register 1.
fn load_map(what: u8, map: &impl AsFd) -> [Instruction; 2] {
    [(LOAD_IMM64, 1, what, map.as_fd().as_raw_fd()), (0, 0, 0, 0)]
}
