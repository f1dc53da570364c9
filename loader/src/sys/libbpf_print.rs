//! Captures libbpf's messages for one thread.
//!
//! libbpf has one print callback for the whole process. While a thread runs [`capture`], the
//! callback of this module keeps that thread's messages in a thread-local variable, so that the
//! messages of parallel loads do not mix. The callback passes all other messages to the callback
//! that was installed before.

use std::cell::RefCell;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::OnceLock;

use libbpf_sys as ffi;

thread_local! {
    static CAPTURED: RefCell<Option<String>> = const { RefCell::new(None) };
}

static PREVIOUS: OnceLock<ffi::libbpf_print_fn_t> = OnceLock::new();

/// Runs `work`. Returns the result of `work` and the messages that libbpf printed in this thread
/// meanwhile: one message on each line, without debug messages.
pub fn capture<T>(work: impl FnOnce() -> T) -> (T, String) {
    PREVIOUS.get_or_init(|| {
        // SAFETY: `print` is a function of this program, so it stays valid; it has the
        // type that libbpf calls. libbpf allows the exchange at any time.
        unsafe { ffi::libbpf_set_print(Some(print)) }
    });
    CAPTURED.try_with(|captured| captured.replace(Some(String::new()))).ok();
    let result = work();
    let captured = CAPTURED.try_with(RefCell::take).ok().flatten();
    (result, captured.unwrap_or_default())
}

unsafe extern "C" {
    /// The C library's function. Rust cannot read a `va_list`; it can only pass it on.
    fn vasprintf(
        text: *mut *mut c_char,
        format: *const c_char,
        arguments: *mut ffi::__va_list_tag,
    ) -> c_int;
}

/// libbpf's print callback. Returns the number of bytes that it printed.
///
/// # Safety
/// `format` is a C string, and `arguments` are the arguments for it. None of the arguments has
/// been read.
unsafe extern "C" fn print(
    level: ffi::libbpf_print_level,
    format: *const c_char,
    arguments: *mut ffi::__va_list_tag,
) -> c_int {
    // A thread that is ending may have destroyed its thread-locals. Its messages are not captured.
    let captures = CAPTURED.try_with(|captured| captured.borrow().is_some()).unwrap_or(false);
    if !captures {
        return match PREVIOUS.get() {
            // SAFETY: `previous` was libbpf's callback before `print`. It gets the format
            // and the arguments as libbpf passed them; nothing has read the arguments.
            Some(Some(previous)) => unsafe { previous(level, format, arguments) },
            _ => 0,
        };
    }
    if level == ffi::LIBBPF_DEBUG {
        return 0;
    }
    let mut text: *mut c_char = std::ptr::null_mut();
    // SAFETY: `format` and `arguments` are as this function's contract says; `text` is a
    // pointer that the call may write.
    let length = unsafe { vasprintf(&mut text, format, arguments) };
    if length < 0 || text.is_null() {
        return length;
    }
    // SAFETY: vasprintf succeeded, so `text` is a C string that nothing else refers to.
    let line = unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned();
    // SAFETY: vasprintf allocated `text` with malloc. `line` is a copy, so nothing refers
    // to `text` any more.
    unsafe { libc::free(text.cast::<c_void>()) };
    let keep = |captured: &RefCell<Option<String>>| {
        captured.borrow_mut().get_or_insert_default().push_str(&line);
    };
    CAPTURED.try_with(keep).ok();
    length
}
