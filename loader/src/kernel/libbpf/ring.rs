//! A ring buffer that programs write records to.

use std::ffi::{c_int, c_void};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr::{self, NonNull};
use std::slice;
use std::time::Duration;

use libbpf_sys as sys;

use super::{check, libbpf_error};

/// A reader, of which a ring buffer takes one.
#[derive(Debug)]
pub struct Ring {
    raw: NonNull<sys::ring_buffer>,
    /// A box of ours, which the callback fills.
    records: NonNull<Vec<Vec<u8>>>,
}

// SAFETY: libbpf ties a ring buffer to no thread, and nobody else knows the records.
unsafe impl Send for Ring {}

/// The most records that one call gives, so that it ends whatever programs do.
const MOST_RECORDS: usize = 4096;

impl Ring {
    /// Maps the ring buffer.
    pub fn new(map: &impl AsFd) -> io::Result<Ring> {
        let records = NonNull::from(Box::leak(Box::<Vec<Vec<u8>>>::default()));
        let (fd, context) = (map.as_fd().as_raw_fd(), records.as_ptr().cast());
        // SAFETY: the callback gets a pointer to the records, which live as long as the
        // ring buffer; libbpf keeps no use of the descriptor but its own mappings.
        let raw = unsafe { sys::ring_buffer__new(fd, Some(collect), context, ptr::null()) };
        match NonNull::new(raw) {
            Some(raw) => Ok(Ring { raw, records }),
            None => {
                let error = libbpf_error(io::Error::last_os_error());
                // SAFETY: leaked above, and nobody has the pointer any more.
                drop(unsafe { Box::from_raw(records.as_ptr()) });
                Err(error)
            }
        }
    }

    /// The records that are there, or come within the time. Interrupted waits end early.
    pub fn read(&mut self, timeout: Duration) -> io::Result<Vec<Vec<u8>>> {
        // Rounded up, so that a short wait is none that spins.
        let milliseconds = timeout.as_micros().div_ceil(1000).try_into().unwrap_or(c_int::MAX);
        // SAFETY: the ring buffer is ours alone as long as this borrows it.
        let answer = unsafe { sys::ring_buffer__poll(self.raw.as_ptr(), milliseconds) };
        // SAFETY: the callback runs within that call only.
        let records = std::mem::take(unsafe { self.records.as_mut() });
        match check(answer) {
            Err(error) if records.is_empty() && error.kind() != io::ErrorKind::Interrupted => {
                Err(error)
            }
            _ => Ok(records),
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: made in `new` and freed once; the ring buffer first, which may call back.
        unsafe {
            sys::ring_buffer__free(self.raw.as_ptr());
            drop(Box::from_raw(self.records.as_ptr()));
        }
    }
}

/// Copies a record; a negative answer ends the call.
unsafe extern "C" fn collect(context: *mut c_void, data: *mut c_void, size: u64) -> c_int {
    // SAFETY: libbpf hands back the pointer of `Ring::new`, within `Ring::read`.
    let records = unsafe { &mut *context.cast::<Vec<Vec<u8>>>() };
    // SAFETY: a record of this size, which nobody writes to until this returns.
    let record = unsafe { slice::from_raw_parts(data.cast::<u8>(), size as usize) };
    records.push(record.to_vec());
    if records.len() < MOST_RECORDS { 0 } else { -libc::ECANCELED }
}
