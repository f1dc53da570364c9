//! Test runs (`BPF_PROG_TEST_RUN`), in which the kernel runs a program on a given frame.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr;

use anyhow::Result;
use libbpf_sys as sys;

use super::answer::check;

/// The result of a test run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// The value that the program returned, such as [`super::XDP_DROP`].
    pub verdict: u32,
    /// The mean duration of one run in nanoseconds, rounded down. The kernel measures it. The
    /// duration of the system call is no substitute, because the call also waits for RCU.
    pub nanoseconds: u32,
}

/// Runs a program `repeat` times on a frame. The frame is not sent anywhere.
pub fn run(program: &OwnedFd, frame: &[u8], repeat: u32) -> Result<Run> {
    test_run(program, frame, repeat, None)
}

/// Runs a program once on a frame whose first buffer has `first_buffer` bytes. Needs a kernel
/// for which [`crate::kernel::test_run_splits_packets`] returns true.
pub fn run_split(program: &OwnedFd, frame: &[u8], first_buffer: usize) -> Result<Run> {
    let context = sys::xdp_md { data_end: first_buffer as u32, ..Default::default() };
    test_run(program, frame, 1, Some(context))
}

/// Runs a program `repeat` times in live-frames mode (Linux 5.18), in batches of up to 256
/// frames. The kernel obeys the verdicts, so it really sends a redirected frame. The kernel
/// reuses a dropped frame for a later run, with the bytes as the program changed them. The frames
/// arrive in the namespace of the calling thread. [`crate::interrupt`] ends the call early.
pub fn run_live(program: &OwnedFd, frame: &[u8], repeat: u32, batch: u32) -> Result<()> {
    let mut options = sys::bpf_test_run_opts {
        flags: sys::BPF_F_TEST_XDP_LIVE_FRAMES,
        batch_size: batch,
        ..options(frame, repeat)
    };
    // SAFETY: `options` has the address and the length of `frame`, which is only read.
    match check(unsafe { sys::bpf_prog_test_run_opts(program.as_raw_fd(), &mut options) }) {
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
        answer => Ok(answer.map(|_| ())?),
    }
}

fn test_run(
    program: &OwnedFd,
    frame: &[u8],
    repeat: u32,
    context: Option<sys::xdp_md>,
) -> Result<Run> {
    let mut options = options(frame, repeat);
    if let Some(context) = &context {
        options.ctx_in = ptr::from_ref(context).cast();
        options.ctx_size_in = size_of::<sys::xdp_md>() as u32;
    }
    // SAFETY: `options` has the addresses and the lengths of `frame` and `context`, which are
    // only read.
    check(unsafe { sys::bpf_prog_test_run_opts(program.as_raw_fd(), &mut options) })?;
    Ok(Run { verdict: options.retval, nanoseconds: options.duration })
}

fn options(frame: &[u8], repeat: u32) -> sys::bpf_test_run_opts {
    sys::bpf_test_run_opts {
        sz: size_of::<sys::bpf_test_run_opts>() as _,
        data_in: frame.as_ptr().cast(),
        data_size_in: frame.len() as u32,
        repeat: repeat as i32,
        ..Default::default()
    }
}
