//! libbpf's reader of a BPF ring buffer, to which programs write records.

use std::ffi::{c_int, c_void};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr::{self, NonNull};
use std::slice;
use std::time::Duration;

use libbpf_sys as ffi;

use super::{check, libbpf_error, whole_milliseconds};

/// The number of records after which one call of [`RingBuffer::read`] ends. Without a limit, the
/// call would not end while programs write records faster than the call reads them.
const MAX_RECORDS: usize = 4096;

/// The reader of a ring buffer. A ring buffer must have only one reader, because the kernel
/// keeps only one read position.
#[derive(Debug)]
pub struct RingBuffer {
    raw: NonNull<ffi::ring_buffer>,
    /// A leaked box, which the callback fills and [`RingBuffer`] owns.
    records: NonNull<Vec<Vec<u8>>>,
}

// SAFETY: libbpf ties a ring buffer to no thread. `raw` and `records` are owned by this
// value alone, and records hold plain bytes.
unsafe impl Send for RingBuffer {}

impl RingBuffer {
    /// Maps a ring buffer into memory. `EINVAL` for a map of another type.
    pub fn new(map: impl AsFd) -> io::Result<RingBuffer> {
        let records = NonNull::from(Box::leak(Box::<Vec<Vec<u8>>>::default()));
        let (fd, context) = (map.as_fd().as_raw_fd(), records.as_ptr().cast());
        // SAFETY: `fd` is open during the call; afterwards libbpf uses its own mappings,
        // which keep the map alive. `collect` takes `context` as the records, which live
        // as long as the ring buffer. The options are null, which means none.
        let raw = unsafe { ffi::ring_buffer__new(fd, Some(collect), context, ptr::null()) };
        match NonNull::new(raw) {
            Some(raw) => Ok(RingBuffer { raw, records }),
            None => {
                let error = libbpf_error(io::Error::last_os_error());
                // SAFETY: `records` was leaked from a box above, and no ring buffer exists
                // that has the pointer.
                drop(unsafe { Box::from_raw(records.as_ptr()) });
                Err(error)
            }
        }
    }

    /// Takes the waiting records. If there are none, waits until a record arrives or the
    /// timeout ends. The timeout is rounded up to whole milliseconds. An interrupted wait ends
    /// early.
    pub fn read(&mut self, timeout: Duration) -> io::Result<Vec<Vec<u8>>> {
        let milliseconds = whole_milliseconds(timeout);
        // SAFETY: `raw` is a ring buffer that is freed only on drop, and this call borrows
        // it mutably, so no other call uses it or the records.
        let answer = unsafe { ffi::ring_buffer__poll(self.raw.as_ptr(), milliseconds) };
        // SAFETY: `records` is a box that is freed only on drop. The callback refers to it
        // only within the call above, which has ended.
        let records = std::mem::take(unsafe { self.records.as_mut() });
        match check(answer) {
            Err(error) if records.is_empty() && error.kind() != io::ErrorKind::Interrupted => {
                Err(error)
            }
            _ => Ok(records),
        }
    }
}

impl Drop for RingBuffer {
    fn drop(&mut self) {
        // SAFETY: both pointers were made in `RingBuffer::new` and are freed only here. The
        // ring buffer is freed first, because it holds the pointer to the records.
        unsafe {
            ffi::ring_buffer__free(self.raw.as_ptr());
            drop(Box::from_raw(self.records.as_ptr()));
        }
    }
}

/// Copies a record. libbpf stops reading when this function returns a negative number.
///
/// # Safety
/// `context` points to the records of a [`RingBuffer`], and nothing else refers to those records
/// during the call. `data` points to `size` bytes that do not change during the call.
unsafe extern "C" fn collect(context: *mut c_void, data: *mut c_void, size: u64) -> c_int {
    // SAFETY: libbpf calls this within `RingBuffer::read` and passes the pointer that
    // `RingBuffer::new` gave it; nothing else refers to the records meanwhile.
    let records = unsafe { &mut *context.cast::<Vec<Vec<u8>>>() };
    // SAFETY: libbpf passes a submitted record of `size` bytes. Programs do not write to it
    // again before this function returns and libbpf moves the reader's position on.
    let record = unsafe { slice::from_raw_parts(data.cast::<u8>(), size as usize) };
    records.push(record.to_vec());
    if records.len() < MAX_RECORDS { 0 } else { -libc::ECANCELED }
}
