//! A loaded map: reads and writes its entries through bpf(2).

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr;
use std::sync::OnceLock;

use libbpf_sys as ffi;

use super::check;

/// More CPUs than any kernel can be built for. A lookup in a per-CPU map writes one value for each
/// possible CPU of the kernel. A buffer for this many values is always large enough, and no file in
/// /sys has to be read to compute its size.
const MAX_CPUS: usize = 16_384;

/// The number of values that the kernel writes for one key of a per-CPU map. The kernel writes one
/// value for each possible CPU, and the number of possible CPUs does not change while the kernel
/// runs.
static VALUES_PER_KEY: OnceLock<usize> = OnceLock::new();

/// A loaded map. The sizes of its keys and values come from the kernel, so the kernel never reads
/// or writes beyond a buffer of such a size.
#[derive(Debug)]
pub struct Map {
    fd: OwnedFd,
    kind: ffi::bpf_map_type,
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
    /// Takes a map of any type, and asks the kernel for its type and sizes.
    pub(super) fn new(fd: OwnedFd) -> io::Result<Map> {
        let mut info = ffi::bpf_map_info::default();
        let mut size = size_of_val(&info) as u32;
        // SAFETY: `fd` is open during the call, and the kernel writes at most `size` bytes
        // to `info`, which has as many.
        check(unsafe { ffi::bpf_map_get_info_by_fd(fd.as_raw_fd(), &mut info, &mut size) })?;
        let (key_size, value_size) = (info.key_size as usize, info.value_size as usize);
        let per_cpu = matches!(
            info.type_,
            ffi::BPF_MAP_TYPE_PERCPU_ARRAY
                | ffi::BPF_MAP_TYPE_PERCPU_HASH
                | ffi::BPF_MAP_TYPE_LRU_PERCPU_HASH
                | ffi::BPF_MAP_TYPE_PERCPU_CGROUP_STORAGE
        );
        Ok(Map { fd, kind: info.type_, key_size, value_size, per_cpu })
    }

    /// Takes a map that another process created. `InvalidData` unless the map is of type `kind`,
    /// its keys have 4 bytes, and its values have one of the sizes in `value_sizes`.
    pub fn from_foreign(
        fd: OwnedFd,
        kind: ffi::bpf_map_type,
        value_sizes: &[usize],
    ) -> io::Result<Map> {
        let map = Map::new(fd)?;
        if map.kind != kind || map.key_size != 4 || !value_sizes.contains(&map.value_size) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(map)
    }

    /// The size of a value in bytes; in a per-CPU map, the size of one CPU's value.
    pub fn value_size(&self) -> usize {
        self.value_size
    }

    /// Writes one value for a `u32` key, which is stored in the machine's byte order.
    pub fn update(&self, key: u32, value: &[u8]) -> io::Result<()> {
        self.put(&key.to_ne_bytes(), value)
    }

    /// Writes one value for a key of any type. `InvalidInput` for a key or a value of the
    /// wrong size, and for a per-CPU map.
    pub fn put(&self, key: &[u8], value: &[u8]) -> io::Result<()> {
        if key.len() != self.key_size || self.per_cpu || value.len() != self.value_size {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let (fd, flags) = (self.fd.as_raw_fd(), u64::from(ffi::BPF_ANY));
        let (key, value) = (key.as_ptr().cast(), value.as_ptr().cast());
        // SAFETY: the map is open. As checked above, `key` and `value` point to as many
        // bytes as the kernel reads for this map; both outlive the call.
        check(unsafe { ffi::bpf_map_update_elem(fd, key, value, flags) }).map(drop)
    }

    /// Deletes the entry of a key. `InvalidInput` for a key of the wrong size.
    pub fn delete(&self, key: &[u8]) -> io::Result<()> {
        if key.len() != self.key_size {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let (fd, key) = (self.fd.as_raw_fd(), key.as_ptr().cast());
        // SAFETY: the map is open. As checked above, `key` points to as many bytes as the
        // kernel reads for this map; it outlives the call.
        check(unsafe { ffi::bpf_map_delete_elem(fd, key) }).map(drop)
    }

    /// Reads the value of a `u32` key. `InvalidInput` for a per-CPU map, and for a map whose keys
    /// do not have 4 bytes.
    pub fn lookup(&self, key: u32) -> io::Result<Vec<u8>> {
        if self.key_size != 4 || self.per_cpu {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut value = vec![0; self.value_size];
        let (fd, key, to) =
            (self.fd.as_raw_fd(), ptr::from_ref(&key).cast(), value.as_mut_ptr().cast());
        // SAFETY: the map is open and is not per-CPU. `key` points to the 4 bytes that the
        // kernel reads, and `to` to the `value_size` bytes that it writes at most; both
        // outlive the call.
        check(unsafe { ffi::bpf_map_lookup_elem(fd, key, to) })?;
        Ok(value)
    }

    /// Reads the values of a `u32` key in a per-CPU map whose values are `N` numbers. Returns one
    /// value for each possible CPU, in the order of `cpus::possible`.
    pub fn lookup_per_cpu<const N: usize>(&self, key: u32) -> io::Result<Vec<[u64; N]>> {
        if self.key_size != 4 || !self.per_cpu || self.value_size != size_of::<[u64; N]>() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        // The first call finds out how many values the kernel writes: the remaining values keep
        // `fill`.
        let fill = if VALUES_PER_KEY.get().is_some() { 0 } else { u64::MAX };
        let mut values = vec![[fill; N]; MAX_CPUS];
        let (fd, key, to) =
            (self.fd.as_raw_fd(), ptr::from_ref(&key).cast(), values.as_mut_ptr().cast());
        // SAFETY: the map is open. `key` points to the 4 bytes that the kernel reads. For
        // each possible CPU the kernel writes one value, rounded up to 8 bytes, which
        // `[u64; N]` is already; `to` has room for more CPUs than a kernel can have. Both
        // outlive the call.
        check(unsafe { ffi::bpf_map_lookup_elem(fd, key, to) })?;
        let written = || values.iter().position(|value| *value == [fill; N]).unwrap_or(MAX_CPUS);
        let written = *VALUES_PER_KEY.get_or_init(written);
        values.truncate(written);
        Ok(values)
    }
}
