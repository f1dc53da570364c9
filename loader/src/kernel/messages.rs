//! What libbpf says while it works, as a value.
//!
//! libbpf has one print callback for the whole process. Ours keeps what a
//! thread says during [`capture`] in that thread, so that parallel loads do not
//! mix, and hands everything else to the callback that was there before.

use std::cell::RefCell;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::OnceLock;

use libbpf_sys as sys;

thread_local! {
    static CAPTURED: RefCell<Option<String>> = const { RefCell::new(None) };
}

static PREVIOUS: OnceLock<sys::libbpf_print_fn_t> = OnceLock::new();

/// Runs `work` and gives its result with libbpf's warnings, one a line.
pub fn capture<T>(work: impl FnOnce() -> T) -> (T, String) {
    // SAFETY: the callback is a function of this program, so it stays valid,
    // and libbpf allows the exchange at any time.
    PREVIOUS.get_or_init(|| unsafe { sys::libbpf_set_print(Some(print)) });
    CAPTURED.try_with(|captured| captured.replace(Some(String::new()))).ok();
    let result = work();
    let captured = CAPTURED.try_with(RefCell::take).ok().flatten();
    (result, captured.unwrap_or_default())
}

unsafe extern "C" {
    /// The C library's; Rust can hand a `va_list` on, but not read it.
    fn vasprintf(
        text: *mut *mut c_char,
        format: *const c_char,
        arguments: *mut sys::__va_list_tag,
    ) -> c_int;
}

unsafe extern "C" fn print(
    level: sys::libbpf_print_level,
    format: *const c_char,
    arguments: *mut sys::__va_list_tag,
) -> c_int {
    // A thread on its way out has no thread-locals left, and captures nothing.
    let captures = CAPTURED.try_with(|captured| captured.borrow().is_some()).unwrap_or(false);
    if !captures {
        return match PREVIOUS.get() {
            // SAFETY: libbpf's own or another user's callback, with the
            // arguments that libbpf meant for it.
            Some(Some(previous)) => unsafe { previous(level, format, arguments) },
            _ => 0,
        };
    }
    if level == sys::LIBBPF_DEBUG {
        return 0;
    }
    let mut text: *mut c_char = std::ptr::null_mut();
    // SAFETY: libbpf passes a format with its arguments, not used before; on
    // success `text` is a fresh C string.
    let length = unsafe { vasprintf(&mut text, format, arguments) };
    if length < 0 || text.is_null() {
        return length;
    }
    // SAFETY: vasprintf succeeded, so `text` is a C string that we own.
    let line = unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned();
    // SAFETY: vasprintf allocated it with malloc, and nothing refers to it now.
    unsafe { libc::free(text.cast::<c_void>()) };
    let keep = |captured: &RefCell<Option<String>>| {
        captured.borrow_mut().get_or_insert_default().push_str(&line);
    };
    CAPTURED.try_with(keep).ok();
    length
}
