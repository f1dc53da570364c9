//! Safe wrappers, each around one call of libbpf, of bpf(2) or about an interface or a
//! socket.
//! With `messages` this is all the `unsafe` there is; what to do with the calls is
//! decided in `object`, `attach` and `probe`.

pub mod datagrams;
pub mod interface;
pub mod object;
pub mod ring;
pub mod socket;

use std::ffi::{CStr, c_int};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;
use std::time::Duration;

use libbpf_sys as sys;

/// libbpf answers with a negative errno, or a number of its own.
fn check(answer: c_int) -> io::Result<c_int> {
    if answer < 0 { Err(libbpf_error(io::Error::from_raw_os_error(-answer))) } else { Ok(answer) }
}

/// libbpf's own numbers begin here (`__LIBBPF_ERRNO__START` of its `libbpf.h`).
const LIBBPF_ERRNO_START: c_int = 4000;

/// Puts libbpf's words to the numbers that are not the system's.
fn libbpf_error(error: io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(number) if number >= LIBBPF_ERRNO_START => {
            let mut text = [0u8; 128];
            // SAFETY: the buffer has the stated size; libbpf ends the text in it.
            unsafe { sys::libbpf_strerror(number, text.as_mut_ptr().cast(), text.len() as _) };
            let text = CStr::from_bytes_until_nul(&text).unwrap_or_default();
            io::Error::other(text.to_string_lossy().into_owned())
        }
        _ => error,
    }
}

fn own(answer: c_int) -> io::Result<OwnedFd> {
    let fd = check(answer)?;
    // SAFETY: only called on answers that are a new descriptor of ours.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Creates a map with keys and values of these sizes.
pub fn create_map(
    kind: sys::bpf_map_type,
    (key, value): (u32, u32),
    entries: u32,
) -> io::Result<OwnedFd> {
    // SAFETY: no pointer but null, which means no name and no options.
    own(unsafe { sys::bpf_map_create(kind, ptr::null(), key, value, entries, ptr::null()) })
}

/// One BPF instruction.
pub fn instruction(code: u8, to: u8, from: u8, immediate: i32) -> sys::bpf_insn {
    let mut instruction = sys::bpf_insn { code, imm: immediate, ..Default::default() };
    instruction.set_dst_reg(to);
    instruction.set_src_reg(from);
    instruction
}

/// Loads a program, with flags of `BPF_PROG_LOAD`.
pub fn load_program(
    kind: sys::bpf_prog_type,
    flags: u32,
    code: &[sys::bpf_insn],
) -> io::Result<OwnedFd> {
    let mut options = sys::bpf_prog_load_opts {
        sz: size_of::<sys::bpf_prog_load_opts>() as _,
        prog_flags: flags,
        ..Default::default()
    };
    let (start, length) = (code.as_ptr(), code.len() as _);
    // SAFETY: the code has the stated length; the options are complete and hold
    // no pointer.
    own(unsafe {
        sys::bpf_prog_load(kind, ptr::null(), c"GPL".as_ptr(), start, length, &mut options)
    })
}

/// Runs an XDP program once on `packet` and gives its verdict; no packet goes
/// anywhere.
pub fn run_program(program: BorrowedFd, packet: &[u8]) -> io::Result<u32> {
    let mut options = sys::bpf_test_run_opts {
        sz: size_of::<sys::bpf_test_run_opts>() as _,
        data_in: packet.as_ptr().cast(),
        data_size_in: packet.len() as u32,
        repeat: 1,
        ..Default::default()
    };
    // SAFETY: the packet has the stated length and is only read.
    check(unsafe { sys::bpf_prog_test_run_opts(program.as_raw_fd(), &mut options) })?;
    Ok(options.retval)
}

/// Runs an XDP program once on a frame as if that had just arrived, so that what it
/// redirects really goes there (Linux 5.18). Older kernels only ask the program, which
/// shows in the answer: false.
pub fn run_live(program: BorrowedFd, frame: &[u8]) -> io::Result<bool> {
    let mut options = sys::bpf_test_run_opts {
        sz: size_of::<sys::bpf_test_run_opts>() as _,
        data_in: frame.as_ptr().cast(),
        data_size_in: frame.len() as u32,
        flags: sys::BPF_F_TEST_XDP_LIVE_FRAMES,
        repeat: 1,
        batch_size: 1,
        ..Default::default()
    };
    // SAFETY: the frame has the stated length and is only read.
    check(unsafe { sys::bpf_prog_test_run_opts(program.as_raw_fd(), &mut options) })?;
    Ok(options.retval != sys::XDP_REDIRECT)
}

/// The time since the kernel started, without that asleep: CLOCK_MONOTONIC, which programs
/// read.
pub fn monotonic_now() -> Duration {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes the time to where it is told; this clock always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

/// A descriptor of a loaded program; takes CAP_SYS_ADMIN.
pub fn program_by_id(id: u32) -> io::Result<OwnedFd> {
    // SAFETY: a plain system call.
    own(unsafe { sys::bpf_prog_get_fd_by_id(id) })
}

/// The maps that a loaded program uses, but no more than 16; takes CAP_SYS_ADMIN.
pub fn program_maps(program: &OwnedFd) -> io::Result<Vec<OwnedFd>> {
    let mut ids = [0u32; 16];
    let mut info = sys::bpf_prog_info {
        nr_map_ids: ids.len() as u32,
        map_ids: ids.as_mut_ptr() as u64,
        ..Default::default()
    };
    let mut size = size_of::<sys::bpf_prog_info>() as u32;
    // SAFETY: the kernel writes at most `size` bytes, and as many ids as there is room for.
    check(unsafe { sys::bpf_prog_get_info_by_fd(program.as_raw_fd(), &mut info, &mut size) })?;
    let count = ids.len().min(info.nr_map_ids as usize);
    // SAFETY: a plain system call.
    ids[..count].iter().map(|id| own(unsafe { sys::bpf_map_get_fd_by_id(*id) })).collect()
}

/// A loaded program's id, name and tag.
pub fn program_info(program: &impl AsFd) -> io::Result<(u32, String, [u8; 8])> {
    let mut info = sys::bpf_prog_info::default();
    let mut size = size_of::<sys::bpf_prog_info>() as u32;
    // SAFETY: the kernel writes at most `size` bytes, and no array was asked for.
    check(unsafe {
        sys::bpf_prog_get_info_by_fd(program.as_fd().as_raw_fd(), &mut info, &mut size)
    })?;
    let name = info.name.iter().map(|c| *c as u8).take_while(|c| *c != 0).collect::<Vec<_>>();
    Ok((info.id, String::from_utf8_lossy(&name).into_owned(), info.tag))
}
