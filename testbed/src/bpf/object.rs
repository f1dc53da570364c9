//! Object files, opened and loaded with libbpf.

use std::ffi::{CStr, CString};
use std::io;
use std::marker::PhantomData;
use std::os::fd::OwnedFd;
use std::ptr::{self, NonNull};

use anyhow::{Context, Result};
use libbpf_sys as sys;

use super::answer::{check, own};

/// An open object. Dropping it closes the object and unloads its maps and programs.
pub(crate) struct Object(NonNull<sys::bpf_object>);

/// A map of an open object.
pub(crate) struct Map<'object>(NonNull<sys::bpf_map>, PhantomData<&'object Object>);

/// A program of an open object.
pub(crate) struct Program<'object>(NonNull<sys::bpf_program>, PhantomData<&'object Object>);

impl Object {
    /// Opens an object file.
    pub fn open(path: &str) -> Result<Object> {
        let path = CString::new(path)?;
        // SAFETY: the path is a C string, and the null options mean "none".
        let object = unsafe { sys::bpf_object__open_file(path.as_ptr(), ptr::null()) };
        NonNull::new(object).map(Object).ok_or_else(io::Error::last_os_error).context("open")
    }

    /// The maps of the object.
    pub fn maps(&self) -> impl Iterator<Item = Map<'_>> {
        let mut map = ptr::null_mut();
        std::iter::from_fn(move || {
            // SAFETY: the object is open, and `map` is null or the previous map of the object.
            map = unsafe { sys::bpf_object__next_map(self.0.as_ptr(), map) };
            NonNull::new(map).map(|map| Map(map, PhantomData))
        })
    }

    /// The programs of the object.
    pub fn programs(&self) -> impl Iterator<Item = Program<'_>> {
        let mut program = ptr::null_mut();
        std::iter::from_fn(move || {
            // SAFETY: the object is open, and `program` is null or the previous program of the
            // object.
            program = unsafe { sys::bpf_object__next_program(self.0.as_ptr(), program) };
            NonNull::new(program).map(|program| Program(program, PhantomData))
        })
    }

    /// Loads the maps and programs into the kernel.
    pub fn load(&self) -> io::Result<()> {
        // SAFETY: the object is open.
        check(unsafe { sys::bpf_object__load(self.0.as_ptr()) }).map(|_| ())
    }
}

impl Drop for Object {
    fn drop(&mut self) {
        // SAFETY: the object is open and not used after this.
        unsafe { sys::bpf_object__close(self.0.as_ptr()) };
    }
}

impl Map<'_> {
    /// The name of the map in the object file.
    pub fn name(&self) -> &CStr {
        // SAFETY: libbpf keeps the name as long as the object is open.
        unsafe { CStr::from_ptr(sys::bpf_map__name(self.0.as_ptr())) }
    }

    /// The initial value of the map, if the object file has one.
    pub fn initial_value(&mut self) -> Option<&mut [u8]> {
        let mut size = 0;
        // SAFETY: the object is open.
        let value = unsafe { sys::bpf_map__initial_value(self.0.as_ptr(), &mut size) };
        let value = NonNull::new(value.cast::<u8>())?;
        // SAFETY: `value` points to `size` bytes, which libbpf keeps as long as the object is
        // open.
        Some(unsafe { std::slice::from_raw_parts_mut(value.as_ptr(), size as usize) })
    }

    fn do_not_pin(&self) -> io::Result<()> {
        // SAFETY: the object is open, and a null path turns pinning off.
        check(unsafe { sys::bpf_map__set_pin_path(self.0.as_ptr(), ptr::null()) }).map(|_| ())
    }
}

impl Program<'_> {
    /// The pointer that libbpf functions take. It is valid as long as the object is open.
    pub fn as_ptr(&self) -> *mut sys::bpf_program {
        self.0.as_ptr()
    }

    /// The name of the program in the object file.
    pub fn name(&self) -> &CStr {
        // SAFETY: libbpf keeps the name as long as the object is open.
        unsafe { CStr::from_ptr(sys::bpf_program__name(self.0.as_ptr())) }
    }
}

/// Runs `work` with the messages of libbpf turned off.
pub(crate) fn without_messages<T>(work: impl FnOnce() -> T) -> T {
    // SAFETY: the print callback may be changed at any time.
    let print = unsafe { sys::libbpf_set_print(None) };
    let result = work();
    // SAFETY: `print` is the previous callback, so it is valid.
    unsafe { sys::libbpf_set_print(print) };
    result
}

/// Loads an object file without pinning any of its maps, and returns its first program. Hides the
/// messages of libbpf while libbpf opens the file, because an object of another project may have
/// sections that libbpf does not know.
pub fn load_file(path: &str) -> Result<OwnedFd> {
    let object = without_messages(|| Object::open(path))?;
    object.maps().try_for_each(|map| map.do_not_pin())?;
    object.load().context("load")?;
    let program = object.programs().next().context("the object has no program")?;
    // SAFETY: the program is loaded, so it has a descriptor, and `dup` returns a new descriptor.
    Ok(unsafe { own(libc::dup(sys::bpf_program__fd(program.as_ptr()))) }?)
}
