//! bpf(2) without an ELF file: creates small maps and programs, runs programs once, and
//! queries loaded programs.

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::ptr;

use libbpf_sys as ffi;

use super::{check, owned_fd, signals};

/// Creates a map. Sizes are in bytes.
pub fn create_map(
    kind: ffi::bpf_map_type,
    (key_size, value_size): (u32, u32),
    entries: u32,
) -> io::Result<OwnedFd> {
    // SAFETY: both pointers are null, which means no name and no options. The answer is
    // the new map's descriptor or a negative errno.
    unsafe {
        let answer =
            ffi::bpf_map_create(kind, ptr::null(), key_size, value_size, entries, ptr::null());
        owned_fd(answer)
    }
}

/// The registers that this crate's own small programs use.
#[derive(Debug, Clone, Copy)]
pub enum Register {
    /// The program's verdict and a helper's answer.
    R0 = 0,
    /// A helper's first argument.
    R1 = 1,
    /// A helper's second argument.
    R2 = 2,
    /// A helper's third argument.
    R3 = 3,
}

/// One BPF instruction. An instruction that contains the descriptor of a map borrows that map.
#[derive(Debug, Clone, Copy)]
#[repr(transparent)]
pub struct Instruction<'map> {
    raw: ffi::bpf_insn,
    map: PhantomData<&'map OwnedFd>,
}

impl<'map> Instruction<'map> {
    /// Sets a register to a constant, sign-extended to 64 bits.
    pub fn set(register: Register, value: i32) -> Self {
        Self::new(ffi::BPF_ALU64 | ffi::BPF_MOV | ffi::BPF_K, register as u8, 0, value)
    }

    /// Calls a helper by its number (`BPF_FUNC_*`).
    pub fn call(helper: u32) -> Self {
        Self::new(ffi::BPF_JMP | ffi::BPF_CALL, 0, 0, helper as i32)
    }

    /// Ends the program; its verdict is in R0.
    pub fn exit() -> Self {
        Self::new(ffi::BPF_JMP | ffi::BPF_EXIT, 0, 0, 0)
    }

    /// Compares the low 32 bits of a register with a constant, and continues with the next
    /// instruction in either case. Needs the instruction class JMP32 (Linux 5.1).
    pub fn compare_32(register: Register, value: i32) -> Self {
        Self::new(ffi::BPF_JMP32 | ffi::BPF_JEQ | ffi::BPF_K, register as u8, 0, value)
    }

    /// Loads a map into a register, for helpers that take a map.
    pub fn load_map(register: Register, map: &'map impl AsFd) -> [Self; 2] {
        Self::load_from_map(register, ffi::BPF_PSEUDO_MAP_FD, map)
    }

    /// Loads the address of the value in an array map that has one entry.
    pub fn load_map_value(register: Register, map: &'map impl AsFd) -> [Self; 2] {
        Self::load_from_map(register, ffi::BPF_PSEUDO_MAP_VALUE, map)
    }

    /// A 64-bit load is two instructions long; the second holds the constant's upper half.
    fn load_from_map(register: Register, what: u32, map: &'map impl AsFd) -> [Self; 2] {
        let (code, fd) = (ffi::BPF_LD | ffi::BPF_IMM | ffi::BPF_DW, map.as_fd().as_raw_fd());
        [Self::new(code, register as u8, what as u8, fd), Self::new(0, 0, 0, 0)]
    }

    fn new(code: u32, destination: u8, source: u8, immediate: i32) -> Self {
        let mut raw = ffi::bpf_insn { code: code as u8, imm: immediate, ..Default::default() };
        raw.set_dst_reg(destination);
        raw.set_src_reg(source);
        Self { raw, map: PhantomData }
    }
}

/// Loads a program. `flags` are those of `BPF_PROG_LOAD`.
pub fn load_program(
    kind: ffi::bpf_prog_type,
    flags: u32,
    code: &[Instruction<'_>],
) -> io::Result<OwnedFd> {
    let mut options = ffi::bpf_prog_load_opts {
        sz: size_of::<ffi::bpf_prog_load_opts>() as _,
        prog_flags: flags,
        ..Default::default()
    };
    let (license, length) = (c"GPL".as_ptr(), code.len() as _);
    // SAFETY: an `Instruction` has the layout of `bpf_insn`, so `code` points to `length`
    // of them; each map descriptor among them is borrowed and therefore open. The license
    // is a C string, the name is null, which means none, and `options` states its size and
    // holds no pointer. All of them outlive the call. The answer is the new program's
    // descriptor or a negative errno.
    signals::blocked(|| unsafe {
        let code = code.as_ptr().cast::<ffi::bpf_insn>();
        let answer = ffi::bpf_prog_load(kind, ptr::null(), license, code, length, &mut options);
        owned_fd(answer)
    })
}

/// Runs an XDP program once on `packet` and returns its verdict, which has no effect on any
/// real packet.
pub fn run_program(program: impl AsFd, packet: &[u8]) -> io::Result<u32> {
    test_run(program, packet, ffi::bpf_test_run_opts::default())
}

/// Runs an XDP program once on a frame as if the frame had just arrived. If the program
/// redirects the frame, the kernel delivers it to its destination (live frames, Linux 5.18).
///
/// Returns false if the kernel only computed the verdict and delivered nothing. Linux 5.10 does
/// so: it ignores the request for live frames and returns the verdict `XDP_REDIRECT`. A kernel
/// that redirects the frame returns another value.
pub fn run_live(program: impl AsFd, frame: &[u8]) -> io::Result<bool> {
    let live = ffi::bpf_test_run_opts {
        flags: ffi::BPF_F_TEST_XDP_LIVE_FRAMES,
        batch_size: 1,
        ..Default::default()
    };
    test_run(program, frame, live).map(|verdict| verdict != ffi::XDP_REDIRECT)
}

/// Runs a program once. Takes only the flags and the batch size from `options`.
fn test_run(program: impl AsFd, packet: &[u8], options: ffi::bpf_test_run_opts) -> io::Result<u32> {
    let mut options = ffi::bpf_test_run_opts {
        sz: size_of::<ffi::bpf_test_run_opts>() as _,
        data_in: packet.as_ptr().cast(),
        data_size_in: packet.len() as u32,
        repeat: 1,
        flags: options.flags,
        batch_size: options.batch_size,
        ..Default::default()
    };
    let fd = program.as_fd().as_raw_fd();
    // SAFETY: `fd` is open during the call. `options` states its size; its only
    // pointer that is not null is `data_in`, from which the kernel reads the
    // `data_size_in` bytes of `packet`. Both outlive the call.
    check(signals::blocked(|| unsafe { ffi::bpf_prog_test_run_opts(fd, &mut options) }))?;
    Ok(options.retval)
}

/// Opens a loaded program. Needs CAP_SYS_ADMIN.
pub fn program_by_id(id: u32) -> io::Result<OwnedFd> {
    // SAFETY: the call takes no pointer. Its answer is a new descriptor of the program or
    // a negative errno.
    unsafe { owned_fd(ffi::bpf_prog_get_fd_by_id(id)) }
}

/// The kernel's description of a loaded program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProgramInfo {
    /// The kernel's number of the program.
    pub id: u32,
    /// The program's name, cut to 15 bytes by the kernel.
    pub name: String,
    /// The kernel's hash of the program's instructions.
    pub tag: [u8; 8],
}

/// Returns the id, name and tag of a loaded program.
pub fn program_info(program: impl AsFd) -> io::Result<ProgramInfo> {
    let info = info_with_maps(program, &mut [])?;
    let name: Vec<u8> = info.name.iter().map(|c| *c as u8).take_while(|c| *c != 0).collect();
    Ok(ProgramInfo {
        id: info.id,
        name: String::from_utf8_lossy(&name).into_owned(),
        tag: info.tag,
    })
}

/// Opens the maps that a loaded program uses, at most 16 of them. Needs CAP_SYS_ADMIN.
pub fn program_maps(program: impl AsFd) -> io::Result<Vec<OwnedFd>> {
    let mut ids = [0; 16];
    let info = info_with_maps(program, &mut ids)?;
    let count = ids.len().min(info.nr_map_ids as usize);
    let open = |id: &u32| {
        // SAFETY: the call takes no pointer. Its answer is a new descriptor of the map or
        // a negative errno.
        unsafe { owned_fd(ffi::bpf_map_get_fd_by_id(*id)) }
    };
    ids[..count].iter().map(open).collect()
}

/// Returns the kernel's information about a program, and fills `map_ids` with the ids of its
/// maps. Ids beyond the end of `map_ids` are left out.
fn info_with_maps(program: impl AsFd, map_ids: &mut [u32]) -> io::Result<ffi::bpf_prog_info> {
    let mut info = ffi::bpf_prog_info {
        nr_map_ids: map_ids.len() as u32,
        map_ids: map_ids.as_mut_ptr() as u64,
        ..Default::default()
    };
    let mut size = size_of_val(&info) as u32;
    let fd = program.as_fd().as_raw_fd();
    // SAFETY: `fd` is open during the call. The kernel writes at most `size` bytes to
    // `info`, which has as many, and at most `nr_map_ids` ids to `map_ids`, which has room
    // for as many. Each other array has the length zero, so nothing is written for it.
    check(unsafe { ffi::bpf_prog_get_info_by_fd(fd, &mut info, &mut size) })?;
    Ok(info)
}
