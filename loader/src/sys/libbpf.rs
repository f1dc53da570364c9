//! libbpf's objects: opens, configures and loads an ELF file.

use std::ffi::{CStr, CString, c_int, c_void};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::{self, NonNull};

use libbpf_sys as ffi;

use super::map::Map;
use super::{check, libbpf_error, signals};

/// The size of the verifier's log buffer in bytes. It is the largest size that kernels before
/// Linux 5.2 accept. If a log did not fit into the buffer, the kernel would return ENOSPC instead
/// of the verifier's error. The large buffer is cheap, because zeroed memory uses no pages until
/// the kernel writes to it.
const VERIFIER_LOG_SIZE: usize = (16 << 20) - 1;

/// The name given to every object. libbpf puts it before the names of global data.
const OBJECT_NAME: &CStr = c"laminar";

/// An ELF file that libbpf has opened, before and after it is loaded.
#[derive(Debug)]
pub struct Object {
    raw: NonNull<ffi::bpf_object>,
    /// libbpf keeps pointers into this buffer until the object is closed, so the buffer is
    /// never replaced.
    verifier_log: Vec<u8>,
}

/// A program as libbpf found it in an object.
#[derive(Debug)]
pub struct ProgramDefinition {
    /// The name of the program's function.
    pub name: CString,
    /// The ELF section, which tells libbpf the program's type.
    pub section: CString,
    /// The program's type.
    pub kind: ffi::bpf_prog_type,
}

/// A map as libbpf found it in an object.
#[derive(Debug)]
pub struct MapDefinition {
    /// The map's name. For global data, the name of the ELF section, such as `.rodata`.
    pub name: CString,
    /// The map's type.
    pub kind: ffi::bpf_map_type,
    /// The size of a key in bytes.
    pub key_size: u32,
    /// The size of a value in bytes.
    pub value_size: u32,
    /// The number of entries.
    pub entries: u32,
    /// Whether libbpf would pin this map when it loads the object, or use a map that is already
    /// pinned at this map's path instead.
    pub pinned: bool,
}

impl Object {
    /// Opens an ELF file of this machine's byte order.
    pub fn open(elf: &[u8]) -> io::Result<Object> {
        // libelf reads the ELF headers in place, so the headers must be aligned. `elf` may be
        // unaligned, so make an aligned copy.
        let mut aligned = vec![0u64; elf.len().div_ceil(8)];
        for (word, bytes) in aligned.iter_mut().zip(elf.chunks(8)) {
            let mut padded = [0; 8];
            padded[..bytes.len()].copy_from_slice(bytes);
            *word = u64::from_ne_bytes(padded);
        }
        let options = ffi::bpf_object_open_opts {
            sz: size_of::<ffi::bpf_object_open_opts>() as _,
            object_name: OBJECT_NAME.as_ptr(),
            ..Default::default()
        };
        let (start, size) = (aligned.as_ptr().cast(), elf.len() as _);
        // SAFETY: `start` points to `aligned`, which has at least `size` bytes. `options`
        // states its size; its only pointer that is not null is a C string. libbpf copies
        // from all of them and keeps no pointer after it returns.
        let raw = unsafe { ffi::bpf_object__open_mem(start, size, &options) };
        let raw = NonNull::new(raw).ok_or_else(|| libbpf_error(io::Error::last_os_error()))?;
        Ok(Object { raw, verifier_log: vec![0; VERIFIER_LOG_SIZE] })
    }

    /// The object's programs.
    pub fn programs(&self) -> Vec<ProgramDefinition> {
        let definition = |program: NonNull<ffi::bpf_program>| {
            let program = program.as_ptr();
            // SAFETY: `program` belongs to this object, which is open. The calls only read
            // it; both names are C strings that live as long as the object, and they are
            // copied here.
            unsafe {
                ProgramDefinition {
                    name: CStr::from_ptr(ffi::bpf_program__name(program)).into(),
                    section: CStr::from_ptr(ffi::bpf_program__section_name(program)).into(),
                    kind: ffi::bpf_program__type(program),
                }
            }
        };
        self.raw_programs().into_iter().map(definition).collect()
    }

    /// The object's maps.
    pub fn maps(&self) -> Vec<MapDefinition> {
        let mut maps = Vec::new();
        let mut map = ptr::null_mut();
        loop {
            // SAFETY: the object is open, and `map` is null or the map that this call gave
            // last.
            map = unsafe { ffi::bpf_object__next_map(self.raw.as_ptr(), map) };
            if map.is_null() {
                return maps;
            }
            // SAFETY: `map` belongs to this object, which is open. The calls only read it,
            // and the name is a C string that lives as long as the object.
            maps.push(unsafe {
                MapDefinition {
                    name: own_name(
                        CStr::from_ptr(ffi::bpf_map__name(map)),
                        ffi::bpf_map__is_internal(map),
                    ),
                    kind: ffi::bpf_map__type(map),
                    key_size: ffi::bpf_map__key_size(map),
                    value_size: ffi::bpf_map__value_size(map),
                    entries: ffi::bpf_map__max_entries(map),
                    pinned: !ffi::bpf_map__pin_path(map).is_null(),
                }
            });
        }
    }

    /// Changes a map's number of entries. Call it before loading.
    pub fn resize_map(&mut self, name: &CStr, entries: u32) -> io::Result<()> {
        let map = self.find_map(name)?.as_ptr();
        // SAFETY: `map` belongs to this object, which is open and borrowed mutably.
        check(unsafe { ffi::bpf_map__set_max_entries(map, entries) }).map(drop)
    }

    /// Sets whether loading the object loads this program. Call it before loading.
    pub fn set_autoload(&mut self, name: &CStr, autoload: bool) -> io::Result<()> {
        let program = self.find_program(name)?.as_ptr();
        // SAFETY: `program` belongs to this object, which is open and borrowed mutably.
        check(unsafe { ffi::bpf_program__set_autoload(program, autoload) }).map(drop)
    }

    /// Makes the object use an existing map instead of a new one. Call it before loading. The
    /// verifier checks programs against the existing map's sizes.
    pub fn reuse_map(&mut self, name: &CStr, map: &Map) -> io::Result<()> {
        let (own, fd) = (self.find_map(name)?.as_ptr(), map.as_fd().as_raw_fd());
        // SAFETY: `own` belongs to this object, which is open and borrowed mutably. `fd` is
        // open during the call, and libbpf keeps a duplicate of it.
        check(unsafe { ffi::bpf_map__reuse_fd(own, fd) }).map(drop)
    }

    /// Sets the content of global data. Call it before loading. libbpf refuses data whose size
    /// differs from the map's.
    pub fn set_global_data(&mut self, name: &CStr, data: &[u8]) -> io::Result<()> {
        let map = self.find_map(name)?.as_ptr();
        let (start, size) = (data.as_ptr().cast::<c_void>(), data.len() as _);
        // SAFETY: `map` belongs to this object, which is open and borrowed mutably. libbpf
        // copies the `size` bytes of `data` and keeps no pointer to them.
        check(unsafe { ffi::bpf_map__set_initial_value(map, start, size) }).map(drop)
    }

    /// Creates the maps and loads the programs. libbpf stops at the first program that the
    /// verifier refuses. The error includes the verifier's log, which is empty if the verifier
    /// did not run.
    pub fn load(&mut self) -> Result<(), (io::Error, String)> {
        self.try_load().map_err(|error| {
            let text = CStr::from_bytes_until_nul(&self.verifier_log).unwrap_or_default();
            (error, text.to_string_lossy().into_owned())
        })
    }

    fn try_load(&mut self) -> io::Result<()> {
        let size = self.verifier_log.len() as _;
        let start = self.verifier_log.as_mut_ptr().cast();
        for program in self.raw_programs() {
            // SAFETY: `program` belongs to this object, which is open and borrowed mutably.
            // libbpf keeps `start` until the object is closed. The object owns these `size` bytes
            // until then, never replaces them, and does not read them during a call of libbpf.
            check(unsafe { ffi::bpf_program__set_log_buf(program.as_ptr(), start, size) })?;
        }
        let object = self.raw.as_ptr();
        // SAFETY: the object is open and borrowed mutably. The log buffer of its programs
        // is the one above.
        check(signals::blocked(|| unsafe { ffi::bpf_object__load(object) })).map(drop)
    }

    /// A loaded map, through a duplicate of libbpf's descriptor.
    pub fn map(&self, name: &CStr) -> io::Result<Map> {
        let map = self.find_map(name)?.as_ptr();
        // SAFETY: `map` belongs to this object, which is open. The object owns the descriptor
        // that the call returns, and the object is borrowed while the descriptor is duplicated.
        Map::new(unsafe { duplicate(ffi::bpf_map__fd(map)) }?)
    }

    /// A loaded program, as a duplicate of libbpf's descriptor.
    pub fn program(&self, name: &CStr) -> io::Result<OwnedFd> {
        let program = self.find_program(name)?.as_ptr();
        // SAFETY: `program` belongs to this object, which is open. The object owns the descriptor
        // that the call returns, and the object is borrowed while the descriptor is duplicated.
        unsafe { duplicate(ffi::bpf_program__fd(program)) }
    }

    fn raw_programs(&self) -> Vec<NonNull<ffi::bpf_program>> {
        let mut programs = Vec::new();
        let mut last = ptr::null_mut();
        loop {
            // SAFETY: the object is open, and `last` is null or the program that this call
            // gave last.
            last = unsafe { ffi::bpf_object__next_program(self.raw.as_ptr(), last) };
            match NonNull::new(last) {
                Some(program) => programs.push(program),
                None => return programs,
            }
        }
    }

    fn find_map(&self, name: &CStr) -> io::Result<NonNull<ffi::bpf_map>> {
        // SAFETY: the object is open, and `name` is a C string that outlives the call.
        let map = unsafe { ffi::bpf_object__find_map_by_name(self.raw.as_ptr(), name.as_ptr()) };
        NonNull::new(map).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn find_program(&self, name: &CStr) -> io::Result<NonNull<ffi::bpf_program>> {
        // SAFETY: the object is open, and `name` is a C string that outlives the call.
        let program =
            unsafe { ffi::bpf_object__find_program_by_name(self.raw.as_ptr(), name.as_ptr()) };
        NonNull::new(program).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Drop for Object {
    fn drop(&mut self) {
        // SAFETY: `raw` was opened by `Object::open` and is closed only here. Nothing
        // borrows from the object any more, and the log buffer is freed afterwards.
        unsafe { ffi::bpf_object__close(self.raw.as_ptr()) };
    }
}

/// Returns the name of a map without the object's name. libbpf puts the object's name before the
/// names of internal maps, which hold global data.
fn own_name(name: &CStr, internal: bool) -> CString {
    let own = name.to_bytes().strip_prefix(OBJECT_NAME.to_bytes()).filter(|_| internal);
    own.map_or(name.into(), |own| CString::new(own).unwrap_or_default())
}

/// Duplicates the descriptor that libbpf answered with.
///
/// # Safety
/// `answer` is a negative errno, or a descriptor that stays open during the call.
unsafe fn duplicate(answer: c_int) -> io::Result<OwnedFd> {
    let fd = check(answer)?;
    // SAFETY: `fd` is not negative, so by this function's contract it stays open during
    // the call, and the borrow ends with the call.
    unsafe { BorrowedFd::borrow_raw(fd) }.try_clone_to_owned()
}
