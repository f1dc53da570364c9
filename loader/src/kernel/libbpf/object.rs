//! An object that libbpf has parsed, and the maps that came of it.

use std::ffi::{CStr, CString, c_int, c_void};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::{self, NonNull};

use libbpf_sys as sys;

use super::{check, libbpf_error};

/// The most that kernels before Linux 5.2 take. Zeroed memory costs nothing until
/// the kernel writes to it, and a buffer that is too small would hide the
/// verifier's real answer.
const VERIFIER_LOG_SIZE: usize = (16 << 20) - 1;

/// More CPUs than any kernel can be built for: the kernel writes a value for each
/// that it finds possible, whatever a file in /sys says.
const MOST_CPUS: usize = 16_384;

/// What libbpf calls every object, and the kernel their global data.
const OBJECT_NAME: &CStr = c"laminar";

/// A parsed object, before and while the kernel loads it.
pub struct Object {
    raw: NonNull<sys::bpf_object>,
    /// libbpf keeps a pointer into it as long as the object is open.
    verifier_log: Vec<u8>,
}

/// A program as libbpf found it in an object.
#[derive(Debug)]
pub struct ProgramDefinition {
    pub name: CString,
    /// By which libbpf knows what to tell the kernel about it.
    pub section: CString,
    pub kind: sys::bpf_prog_type,
}

/// A map as libbpf found it in an object.
pub struct MapDefinition {
    pub name: CString,
    pub kind: sys::bpf_map_type,
    pub key_size: u32,
    pub value_size: u32,
    pub entries: u32,
    /// Whether libbpf would pin it, or take over what is pinned there.
    pub pinned: bool,
}

impl Object {
    /// Parses an ELF file of this machine's byte order.
    pub fn open(elf: &[u8]) -> io::Result<Object> {
        // libelf reads the headers in place and wants their natural alignment.
        let mut aligned = vec![0u64; elf.len().div_ceil(8)];
        for (word, bytes) in aligned.iter_mut().zip(elf.chunks(8)) {
            let mut padded = [0; 8];
            padded[..bytes.len()].copy_from_slice(bytes);
            *word = u64::from_ne_bytes(padded);
        }
        let options = sys::bpf_object_open_opts {
            sz: size_of::<sys::bpf_object_open_opts>() as _,
            object_name: OBJECT_NAME.as_ptr(),
            ..Default::default()
        };
        // SAFETY: `aligned` holds at least `elf.len()` bytes, of which libbpf
        // keeps no pointer after it returns.
        let raw =
            unsafe { sys::bpf_object__open_mem(aligned.as_ptr().cast(), elf.len() as _, &options) };
        let raw = NonNull::new(raw).ok_or_else(|| libbpf_error(io::Error::last_os_error()))?;
        Ok(Object { raw, verifier_log: Vec::new() })
    }

    /// Its programs.
    pub fn programs(&self) -> Vec<ProgramDefinition> {
        let mut programs = Vec::new();
        let mut program = ptr::null_mut();
        loop {
            // SAFETY: the object is open, and `program` is null or the last one.
            program = unsafe { sys::bpf_object__next_program(self.raw.as_ptr(), program) };
            if program.is_null() {
                return programs;
            }
            // SAFETY: a program of this object, which these calls only read; its names
            // live as long.
            programs.push(unsafe {
                ProgramDefinition {
                    name: CStr::from_ptr(sys::bpf_program__name(program)).into(),
                    section: CStr::from_ptr(sys::bpf_program__section_name(program)).into(),
                    kind: sys::bpf_program__type(program),
                }
            });
        }
    }

    /// Its maps.
    pub fn maps(&self) -> Vec<MapDefinition> {
        let mut maps = Vec::new();
        let mut map = ptr::null_mut();
        loop {
            // SAFETY: the object is open, and `map` is null or the last one.
            map = unsafe { sys::bpf_object__next_map(self.raw.as_ptr(), map) };
            if map.is_null() {
                return maps;
            }
            // SAFETY: a map of this object; its name lives as long.
            let (name, internal) = unsafe {
                (CStr::from_ptr(sys::bpf_map__name(map)), sys::bpf_map__is_internal(map))
            };
            // libbpf puts the object's name in front of the names of global data.
            let own = name.to_bytes().strip_prefix(OBJECT_NAME.to_bytes()).filter(|_| internal);
            // SAFETY: a map of this object; these calls only read it.
            maps.push(unsafe {
                MapDefinition {
                    name: own.map_or(name.into(), |own| CString::new(own).unwrap_or_default()),
                    kind: sys::bpf_map__type(map),
                    key_size: sys::bpf_map__key_size(map),
                    value_size: sys::bpf_map__value_size(map),
                    entries: sys::bpf_map__max_entries(map),
                    pinned: !sys::bpf_map__pin_path(map).is_null(),
                }
            });
        }
    }

    fn find_map(&self, name: &CStr) -> io::Result<NonNull<sys::bpf_map>> {
        // SAFETY: the object is open and the name is a C string.
        let map = unsafe { sys::bpf_object__find_map_by_name(self.raw.as_ptr(), name.as_ptr()) };
        NonNull::new(map).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn find_program(&self, name: &CStr) -> io::Result<NonNull<sys::bpf_program>> {
        // SAFETY: the object is open and the name is a C string.
        let program =
            unsafe { sys::bpf_object__find_program_by_name(self.raw.as_ptr(), name.as_ptr()) };
        NonNull::new(program).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Changes a map's number of entries, before loading.
    pub fn resize_map(&mut self, name: &CStr, entries: u32) -> io::Result<()> {
        let map = self.find_map(name)?;
        // SAFETY: a map of this object.
        check(unsafe { sys::bpf_map__set_max_entries(map.as_ptr(), entries) }).map(drop)
    }

    /// Has libbpf load a program with the object or leave it out, before loading.
    pub fn set_wanted(&mut self, name: &CStr, is_wanted: bool) -> io::Result<()> {
        let program = self.find_program(name)?;
        // SAFETY: a program of this object.
        check(unsafe { sys::bpf_program__set_autoload(program.as_ptr(), is_wanted) }).map(drop)
    }

    /// Has the object use a map that exists, instead of making its own; before loading.
    /// The verifier sees the map as it is.
    pub fn reuse_map(&mut self, name: &CStr, map: &Map) -> io::Result<()> {
        let own = self.find_map(name)?;
        // SAFETY: a map of this object; libbpf duplicates the descriptor.
        check(unsafe { sys::bpf_map__reuse_fd(own.as_ptr(), map.fd.as_raw_fd()) }).map(drop)
    }

    /// Sets the content of global data, before loading; libbpf refuses another
    /// size than the map's.
    pub fn set_global_data(&mut self, name: &CStr, data: &[u8]) -> io::Result<()> {
        let map = self.find_map(name)?;
        let (start, size) = (data.as_ptr().cast::<c_void>(), data.len() as _);
        // SAFETY: a map of this object; libbpf copies `size` bytes.
        check(unsafe { sys::bpf_map__set_initial_value(map.as_ptr(), start, size) }).map(drop)
    }

    /// Creates the maps and has the verifier check the programs, in which libbpf stops
    /// at the first that is refused. A failure comes with the verifier's log, empty if
    /// it did not come to that.
    pub fn load(&mut self) -> Result<(), (io::Error, String)> {
        self.verifier_log = vec![0; VERIFIER_LOG_SIZE];
        let log = &mut self.verifier_log;
        let (start, size) = (log.as_mut_ptr().cast(), log.len() as _);
        let mut program = ptr::null_mut();
        let result = loop {
            // SAFETY: the object is open, and `program` is null or the last one.
            program = unsafe { sys::bpf_object__next_program(self.raw.as_ptr(), program) };
            if program.is_null() {
                // SAFETY: the object is open.
                break check(unsafe { sys::bpf_object__load(self.raw.as_ptr()) });
            }
            // SAFETY: a program of this object, which owns the buffer until it
            // is closed and does not touch it meanwhile.
            let set = unsafe { sys::bpf_program__set_log_buf(program, start, size) };
            if let Err(error) = check(set) {
                break Err(error);
            }
        };
        result.map(drop).map_err(|error| {
            let text = CStr::from_bytes_until_nul(&self.verifier_log).unwrap_or_default();
            (error, text.to_string_lossy().into_owned())
        })
    }

    /// A loaded map, with a descriptor of its own.
    pub fn map(&self, name: &CStr) -> io::Result<Map> {
        let map = self.find_map(name)?;
        // SAFETY: a map of this object.
        let (fd, key_size, value_size, kind) = unsafe {
            let map = map.as_ptr();
            (
                sys::bpf_map__fd(map),
                sys::bpf_map__key_size(map),
                sys::bpf_map__value_size(map),
                sys::bpf_map__type(map),
            )
        };
        let per_cpu = kind == sys::BPF_MAP_TYPE_PERCPU_ARRAY;
        let (key_size, value_size) = (key_size as usize, value_size as usize);
        Ok(Map { fd: duplicate(fd)?, key_size, value_size, per_cpu })
    }

    /// A loaded program, with a descriptor of its own.
    pub fn program(&self, name: &CStr) -> io::Result<OwnedFd> {
        let program = self.find_program(name)?;
        // SAFETY: a program of this object.
        duplicate(unsafe { sys::bpf_program__fd(program.as_ptr()) })
    }
}

impl Drop for Object {
    fn drop(&mut self) {
        // SAFETY: opened by us and closed once; nothing borrows from it.
        unsafe { sys::bpf_object__close(self.raw.as_ptr()) };
    }
}

fn duplicate(fd: c_int) -> io::Result<OwnedFd> {
    let fd = check(fd)?;
    // SAFETY: the object that owns it is borrowed by the caller meanwhile.
    unsafe { BorrowedFd::borrow_raw(fd) }.try_clone_to_owned()
}

/// A loaded map.
#[derive(Debug)]
pub struct Map {
    fd: OwnedFd,
    key_size: usize,
    value_size: usize,
    per_cpu: bool,
}

impl AsFd for Map {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Map {
    /// A map that somebody else made, of this type and with values of one of these sizes.
    pub fn of(fd: OwnedFd, kind: sys::bpf_map_type, value_sizes: &[usize]) -> io::Result<Map> {
        let mut info = sys::bpf_map_info::default();
        let mut size = size_of::<sys::bpf_map_info>() as u32;
        // SAFETY: the kernel writes at most `size` bytes.
        check(unsafe { sys::bpf_map_get_info_by_fd(fd.as_raw_fd(), &mut info, &mut size) })?;
        if info.type_ != kind
            || info.key_size != 4
            || !value_sizes.contains(&(info.value_size as usize))
        {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let per_cpu = info.type_ == sys::BPF_MAP_TYPE_PERCPU_ARRAY;
        Ok(Map { fd, key_size: 4, value_size: info.value_size as usize, per_cpu })
    }

    /// Bytes of a value.
    pub fn value_size(&self) -> usize {
        self.value_size
    }

    /// Writes one value of a map whose keys are `u32`, in the machine's byte order.
    pub fn update(&self, key: u32, value: &[u8]) -> io::Result<()> {
        self.put(&key.to_ne_bytes(), value)
    }

    /// Writes one value for a key of any kind.
    pub fn put(&self, key: &[u8], value: &[u8]) -> io::Result<()> {
        if self.key_size != key.len() || self.per_cpu || value.len() != self.value_size {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        // SAFETY: key and value have the sizes that the kernel reads.
        check(unsafe {
            let (key, value) = (key.as_ptr().cast(), value.as_ptr().cast());
            sys::bpf_map_update_elem(self.fd.as_raw_fd(), key, value, u64::from(sys::BPF_ANY))
        })
        .map(drop)
    }

    /// Takes out what is there for a key.
    pub fn delete(&self, key: &[u8]) -> io::Result<()> {
        if self.key_size != key.len() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        // SAFETY: the key has the size that the kernel reads.
        let answer = unsafe { sys::bpf_map_delete_elem(self.fd.as_raw_fd(), key.as_ptr().cast()) };
        check(answer).map(drop)
    }

    /// Reads one value, in the machine's byte order.
    pub fn lookup(&self, key: u32) -> io::Result<Vec<u8>> {
        if self.key_size != 4 || self.per_cpu {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut value = vec![0; self.value_size];
        // SAFETY: the kernel writes as many bytes as a value has.
        check(unsafe {
            let (key, value) = (ptr::from_ref(&key).cast(), value.as_mut_ptr().cast());
            sys::bpf_map_lookup_elem(self.fd.as_raw_fd(), key, value)
        })?;
        Ok(value)
    }

    /// Reads the numbers of a per-CPU map: so many for each possible CPU, then zeros.
    pub fn lookup_per_cpu<const N: usize>(&self, key: u32) -> io::Result<Vec<[u64; N]>> {
        if self.key_size != 4 || !self.per_cpu || self.value_size != size_of::<[u64; N]>() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut values = vec![[0u64; N]; MOST_CPUS];
        // SAFETY: the kernel writes a value, a multiple of 8 bytes, for each possible CPU.
        check(unsafe {
            let (key, values) = (ptr::from_ref(&key).cast(), values.as_mut_ptr().cast());
            sys::bpf_map_lookup_elem(self.fd.as_raw_fd(), key, values)
        })?;
        Ok(values)
    }
}
