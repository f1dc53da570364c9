//! Programs beside the one under test: running any program on a frame, minimal
//! ones to compare with, and other people's.

use std::ffi::{CStr, CString, c_int};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;

use anyhow::{Context, Result, ensure};
use libbpf_sys as sys;

use crate::interface_index;

/// Verdicts of an XDP program, by the kernel's `linux/bpf.h`.
pub const XDP_DROP: u32 = sys::XDP_DROP;
/// To the network stack.
pub const XDP_PASS: u32 = sys::XDP_PASS;
/// To another interface or CPU.
pub const XDP_REDIRECT: u32 = sys::XDP_REDIRECT;

fn check(answer: c_int) -> io::Result<c_int> {
    if answer < 0 { Err(io::Error::from_raw_os_error(-answer)) } else { Ok(answer) }
}

fn own(answer: c_int) -> io::Result<OwnedFd> {
    let fd = check(answer)?;
    // SAFETY: only called on answers that are a new descriptor of ours.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// What a run of a program on a frame gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// `XDP_DROP` (1), `XDP_PASS` (2), `XDP_REDIRECT` (4)...
    pub verdict: u32,
    /// Mean nanoseconds of one run as the kernel measured, cut to whole ones. The
    /// time of the whole call says less: it waits for RCU.
    pub nanoseconds: u32,
}

/// Runs a program `repeat` times on a frame, which goes nowhere.
pub fn run(program: &OwnedFd, frame: &[u8], repeat: u32) -> Result<Run> {
    test_run(program, frame, repeat, None)
}

/// Runs a program once on a frame of which the first buffer holds only so much.
/// See [`crate::kernel::test_run_splits_packets`].
pub fn run_split(program: &OwnedFd, frame: &[u8], first_buffer: usize) -> Result<Run> {
    let context = sys::xdp_md { data_end: first_buffer as u32, ..Default::default() };
    test_run(program, frame, 1, Some(context))
}

/// Has a program see a frame `repeat` times as if it came in, `batch` (up to 256) at a
/// time: what it redirects leaves, what it drops comes back with what it wrote. In this
/// thread's namespace, until [`crate::interrupt`] ends it; Linux 5.18.
pub fn run_live(program: &OwnedFd, frame: &[u8], repeat: u32, batch: u32) -> Result<()> {
    let mut options = sys::bpf_test_run_opts {
        sz: size_of::<sys::bpf_test_run_opts>() as _,
        data_in: frame.as_ptr().cast(),
        data_size_in: frame.len() as u32,
        repeat: repeat as c_int,
        flags: sys::BPF_F_TEST_XDP_LIVE_FRAMES,
        batch_size: batch,
        ..Default::default()
    };
    // SAFETY: the frame has the stated length and is only read.
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
    let mut options = sys::bpf_test_run_opts {
        sz: size_of::<sys::bpf_test_run_opts>() as _,
        data_in: frame.as_ptr().cast(),
        data_size_in: frame.len() as u32,
        repeat: repeat as c_int,
        ..Default::default()
    };
    if let Some(context) = &context {
        options.ctx_in = ptr::from_ref(context).cast();
        options.ctx_size_in = size_of::<sys::xdp_md>() as u32;
    }
    // SAFETY: frame and context have the stated lengths and are only read.
    check(unsafe { sys::bpf_prog_test_run_opts(program.as_raw_fd(), &mut options) })?;
    Ok(Run { verdict: options.retval, nanoseconds: options.duration })
}

/// A loaded program by its id.
pub fn program_by_id(id: u32) -> Result<OwnedFd> {
    // SAFETY: a plain system call.
    Ok(own(unsafe { sys::bpf_prog_get_fd_by_id(id) })?)
}

/// Takes an entry out of a map that a loaded program uses.
pub fn delete_from_map(program: &OwnedFd, name: &CStr, key: u32) -> Result<()> {
    let map = map_of(program, name)?;
    // SAFETY: the key has the size that keys of our arrays have.
    check(unsafe { sys::bpf_map_delete_elem(map.as_raw_fd(), (&raw const key).cast()) })?;
    Ok(())
}

/// Writes the only value of a map that a loaded program uses.
pub fn write_map(program: &OwnedFd, name: &CStr, value: &[u8]) -> Result<()> {
    let map = map_of(program, name)?;
    let size = map_info(&map)?.value_size as usize;
    ensure!(value.len() == size, "a value of {name:?} has {size} bytes, not {}", value.len());
    let key = 0u32;
    // SAFETY: key and value have the sizes of the map's.
    check(unsafe {
        let (key, value) = ((&raw const key).cast(), value.as_ptr().cast());
        sys::bpf_map_update_elem(map.as_raw_fd(), key, value, 0)
    })?;
    Ok(())
}

/// Reads the only value of a map that a loaded program uses.
pub fn read_map(program: &OwnedFd, name: &CStr) -> Result<Vec<u8>> {
    let map = map_of(program, name)?;
    let mut value = vec![0u8; map_info(&map)?.value_size as usize];
    let key = 0u32;
    // SAFETY: key and value have the sizes of the map's.
    check(unsafe {
        let (key, value) = ((&raw const key).cast(), value.as_mut_ptr().cast());
        sys::bpf_map_lookup_elem(map.as_raw_fd(), key, value)
    })?;
    Ok(value)
}

/// How large a loaded program is, in bytes: as the verifier left it, and as machine code.
pub fn size(program: &OwnedFd) -> Result<(u32, u32)> {
    let info = program_info(program, &mut [])?;
    Ok((info.xlated_prog_len, info.jited_prog_len))
}

fn program_info(program: &OwnedFd, map_ids: &mut [u32]) -> Result<sys::bpf_prog_info> {
    let mut info = sys::bpf_prog_info {
        nr_map_ids: map_ids.len() as u32,
        map_ids: map_ids.as_mut_ptr() as u64,
        ..Default::default()
    };
    let mut size = size_of_val(&info) as u32;
    // SAFETY: the kernel writes at most `size` bytes, and as many ids as there is room for.
    check(unsafe { sys::bpf_prog_get_info_by_fd(program.as_raw_fd(), &mut info, &mut size) })?;
    Ok(info)
}

/// A map that a loaded program uses, by its name in the kernel.
fn map_of(program: &OwnedFd, name: &CStr) -> Result<OwnedFd> {
    let mut ids = [0u32; 16];
    let info = program_info(program, &mut ids)?;
    for id in &ids[..ids.len().min(info.nr_map_ids as usize)] {
        // SAFETY: a plain system call.
        let map = own(unsafe { sys::bpf_map_get_fd_by_id(*id) })?;
        let found = map_info(&map)?.name;
        let found: Vec<u8> = found.iter().map(|c| *c as u8).take_while(|c| *c != 0).collect();
        if found == name.to_bytes() {
            return Ok(map);
        }
    }
    anyhow::bail!("it has no map {name:?}")
}

fn map_info(map: &OwnedFd) -> Result<sys::bpf_map_info> {
    let mut info = sys::bpf_map_info::default();
    let mut size = size_of_val(&info) as u32;
    // SAFETY: the kernel writes at most `size` bytes.
    check(unsafe { sys::bpf_map_get_info_by_fd(map.as_raw_fd(), &mut info, &mut size) })?;
    Ok(info)
}

fn instruction(code: u32, to: u8, from: u8, immediate: i32) -> sys::bpf_insn {
    let mut instruction = sys::bpf_insn { code: code as u8, imm: immediate, ..Default::default() };
    instruction.set_dst_reg(to);
    instruction.set_src_reg(from);
    instruction
}

fn load(name: &CStr, program: &[sys::bpf_insn]) -> Result<OwnedFd> {
    // SAFETY: the program has the stated length; the options are none.
    Ok(own(unsafe {
        sys::bpf_prog_load(
            sys::BPF_PROG_TYPE_XDP,
            name.as_ptr(),
            c"GPL".as_ptr(),
            program.as_ptr(),
            program.len() as _,
            ptr::null_mut(),
        )
    })?)
}

/// A program that does nothing but answer `verdict`.
pub fn empty_program(name: &CStr, verdict: u32) -> Result<OwnedFd> {
    load(
        name,
        &[
            instruction(sys::BPF_ALU64 | sys::BPF_MOV, 0, 0, verdict as i32),
            instruction(sys::BPF_JMP | sys::BPF_EXIT, 0, 0, 0),
        ],
    )
}

/// A program that does nothing but redirect to the queue of CPU 0, with that
/// queue.
pub fn empty_redirect() -> Result<(OwnedFd, OwnedFd)> {
    // SAFETY: no pointer but null, which means no name and no options.
    let map = own(unsafe {
        sys::bpf_map_create(sys::BPF_MAP_TYPE_CPUMAP, ptr::null(), 4, 8, 1, ptr::null())
    })?;
    let (cpu, queue) = (0u32, [192u32, 0]);
    // SAFETY: key and value have the sizes of the map.
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

/// Attaches a program to an interface of this thread's namespace until the
/// answer is dropped.
pub fn attach(program: &OwnedFd, interface: &str) -> Result<OwnedFd> {
    let index = interface_index(interface)?;
    // SAFETY: plain values; the options are none.
    let link =
        unsafe { sys::bpf_link_create(program.as_raw_fd(), index, sys::BPF_XDP, ptr::null()) };
    Ok(own(link)?)
}

/// The id of the XDP program on an interface of this thread's namespace.
pub fn attached_program(interface: &str) -> Result<Option<u32>> {
    let mut id = 0;
    // SAFETY: writes the id and nothing else.
    check(unsafe { sys::bpf_xdp_query_id(interface_index(interface)?, 0, &mut id) })?;
    Ok(Some(id).filter(|id| *id != 0))
}

/// Loads the one XDP program of somebody's object file, with none of its maps
/// pinned.
pub fn load_file(path: &str) -> Result<OwnedFd> {
    let path = CString::new(path)?;
    // SAFETY: libbpf allows the exchange at any time; what it says about
    // sections of other tools is of no interest.
    let print = unsafe { sys::libbpf_set_print(None) };
    // SAFETY: the path is a C string; the options are none.
    let object = unsafe { sys::bpf_object__open_file(path.as_ptr(), ptr::null()) };
    // SAFETY: puts the callback back that was there.
    unsafe { sys::libbpf_set_print(print) };
    ensure!(!object.is_null(), "open: {}", io::Error::last_os_error());
    // SAFETY: the object is open, and its maps and its program are used only
    // until it is closed.
    unsafe {
        let mut map = sys::bpf_object__next_map(object, ptr::null());
        while !map.is_null() {
            check(sys::bpf_map__set_pin_path(map, ptr::null()))?;
            map = sys::bpf_object__next_map(object, map);
        }
        check(sys::bpf_object__load(object)).context("load")?;
        let program = sys::bpf_object__next_program(object, ptr::null_mut());
        ensure!(!program.is_null(), "it has no program");
        let program = own(libc::dup(sys::bpf_program__fd(program)))?;
        sys::bpf_object__close(object);
        Ok(program)
    }
}
