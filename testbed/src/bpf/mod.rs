//! BPF programs: loading and attaching them, running them on test frames, and accessing their
//! maps.

use libbpf_sys as sys;

mod answer;
mod maps;
mod minimal;
pub(crate) mod object;
mod program;
mod test_run;

pub use maps::{delete_from_map, read_map, write_map};
pub use minimal::{empty_program, empty_redirect};
pub use object::load_file;
pub use program::{attach, attached_program, program_by_id, size};
pub use test_run::{Run, run, run_live, run_split};

/// The XDP verdict that drops a packet (`linux/bpf.h`).
pub const XDP_DROP: u32 = sys::XDP_DROP;
/// The XDP verdict that passes a packet to the network stack.
pub const XDP_PASS: u32 = sys::XDP_PASS;
/// The XDP verdict that redirects a packet to another interface or CPU.
pub const XDP_REDIRECT: u32 = sys::XDP_REDIRECT;
