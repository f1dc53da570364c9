//! Probes which features this kernel has.
//!
//! Each probe creates the smallest map or program that needs the feature, and drops that map or
//! program again. The result is "no" only under two conditions: the kernel returns exactly the
//! errno for "unsupported", and the same operation without the feature succeeds. Any other
//! failure is reported as "unknown". Some features can be probed with a socket filter instead of
//! an XDP program. Their probes use a socket filter, because loading a socket filter may need no
//! capability.

use std::collections::BTreeMap;
use std::io;

use laminar_xdp_prebuilt::Feature;
use libbpf_sys as libbpf;

use crate::ids::CpuId;
use crate::object::capabilities;
use crate::object::redirect_program::redirect_program;
use crate::report::{FeatureAnswer, Support, XdpError};
use crate::sys::bpf::{self, Instruction, Register};

/// The kernel's answers so far. A value of this type probes each feature at most once. A new value
/// probes again: the capabilities of the thread may have changed, and the kernel's answers depend
/// on the capabilities.
#[derive(Debug, Default)]
pub struct KernelFeatures(BTreeMap<Feature, Support>);

impl KernelFeatures {
    /// Fails if the kernel has no bpf() system call, or does not allow this thread to use it.
    pub fn check_bpf() -> Result<(), XdpError> {
        match create_map(libbpf::BPF_MAP_TYPE_ARRAY, 4) {
            Ok(()) => Ok(()),
            Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => {
                Err(XdpError::KernelWithoutBpf { source: error.into() })
            }
            Err(error) if capabilities::is_denied(&error) => {
                Err(capabilities::denied(capabilities::LOAD))
            }
            // Ignore other errors, such as out of memory. Loading the object later reports such
            // errors in more detail.
            Err(_) => Ok(()),
        }
    }

    /// Whether the kernel has a feature.
    pub fn ask(&mut self, feature: Feature) -> Support {
        self.0.entry(feature).or_insert_with(|| probe(feature)).clone()
    }

    /// The answers so far, oldest feature first.
    pub fn answers(&self) -> Vec<FeatureAnswer> {
        let answer = |(feature, support): (&Feature, &Support)| FeatureAnswer {
            feature: *feature,
            support: support.clone(),
        };
        self.0.iter().map(answer).collect()
    }
}

fn probe(feature: Feature) -> Support {
    let answer = match feature {
        Feature::Cpumap => create_map(libbpf::BPF_MAP_TYPE_CPUMAP, 4),
        Feature::SkReuseport => create_map(libbpf::BPF_MAP_TYPE_REUSEPORT_SOCKARRAY, 4),
        Feature::Jmp32 => jmp32(),
        Feature::GlobalData => global_data(),
        Feature::RedirectVerdict => return redirect_verdict().unwrap_or_else(unknown),
        Feature::Ringbuf => ring_buffer(),
        Feature::CpumapProgram => create_map(libbpf::BPF_MAP_TYPE_CPUMAP, 8),
        Feature::Frags => load_xdp(libbpf::BPF_F_XDP_HAS_FRAGS),
        // The prebuilt crate is newer than this library and has a feature without a probe.
        _ => Err(io::ErrorKind::Unsupported.into()),
    };
    // The same operation without the feature. If this operation also fails, the probe's EINVAL
    // does not show that the feature is missing.
    let control = || match feature {
        Feature::SkReuseport => create_map(libbpf::BPF_MAP_TYPE_ARRAY, 4),
        _ => {
            create_map(libbpf::BPF_MAP_TYPE_ARRAY, 4)?;
            load_xdp(0)
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

fn create_map(kind: libbpf::bpf_map_type, value_size: u32) -> io::Result<()> {
    bpf::create_map(kind, (4, value_size), 1).map(drop)
}

/// Creates a ring buffer, which has neither keys nor values. Its size must be a multiple of the
/// page size; 64 KiB is a multiple of every page size.
fn ring_buffer() -> io::Result<()> {
    bpf::create_map(libbpf::BPF_MAP_TYPE_RINGBUF, (0, 0), 1 << 16).map(drop)
}

/// Loads an XDP program that returns at once.
fn load_xdp(flags: u32) -> io::Result<()> {
    let code = [Instruction::set(Register::R0, 0), Instruction::exit()];
    bpf::load_program(libbpf::BPF_PROG_TYPE_XDP, flags, &code).map(drop)
}

fn load_socket_filter(code: &[Instruction]) -> io::Result<()> {
    bpf::load_program(libbpf::BPF_PROG_TYPE_SOCKET_FILTER, 0, code).map(drop)
}

fn jmp32() -> io::Result<()> {
    load_socket_filter(&[
        Instruction::set(Register::R0, 0),
        Instruction::compare_32(Register::R0, 0),
        Instruction::exit(),
    ])
}

fn global_data() -> io::Result<()> {
    let map = bpf::create_map(libbpf::BPF_MAP_TYPE_ARRAY, (4, 4), 1)?;
    let [address, upper] = Instruction::load_map_value(Register::R1, &map);
    load_socket_filter(&[address, upper, Instruction::set(Register::R0, 0), Instruction::exit()])
}

/// Older kernels load this program too, but abort each packet for which the program runs. The
/// probe therefore runs the program.
fn redirect_verdict() -> io::Result<Support> {
    let cpu_map = bpf::create_map(libbpf::BPF_MAP_TYPE_CPUMAP, (4, 4), 1)?;
    let program = redirect_program(&cpu_map, CpuId::new(0), false)?;
    match bpf::run_program(&program, &[0; 64])? {
        libbpf::XDP_PASS => Ok(Support::Yes),
        verdict => Ok(Support::No(format!("verdict {verdict} for a CPU without a queue"))),
    }
}
