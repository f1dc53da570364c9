//! What the kernel's verifier has to do for a program.

use std::ffi::{CStr, CString};
use std::io;
use std::ptr;

use anyhow::{Context, Result, ensure};
use libbpf_sys as sys;

/// The verifier's own figures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VerifierCost {
    /// Instructions that it went through, on all paths together; the kernel's limit is a
    /// million.
    pub instructions: u32,
    /// States that it remembered.
    pub states: u32,
}

/// `BPF_LOG_STATS` of the kernel's `linux/bpf_verifier.h` (Linux 5.2).
const LOG_STATS: u32 = 4;

/// Has the kernel verify one program of an object file, with these features in its
/// settings if it has any, and throws it away again.
pub fn verifier_cost(path: &str, program: &CStr, features: u32) -> Result<VerifierCost> {
    let path = CString::new(path)?;
    let mut log = vec![0u8; 1 << 16];
    // SAFETY: libbpf allows the exchange at any time.
    let print = unsafe { sys::libbpf_set_print(None) };
    // SAFETY: the path is a C string; the options are none.
    let object = unsafe { sys::bpf_object__open_file(path.as_ptr(), ptr::null()) };
    if object.is_null() {
        let error = io::Error::last_os_error();
        // SAFETY: puts the callback back that was there.
        unsafe { sys::libbpf_set_print(print) };
        anyhow::bail!("open: {error}");
    }
    // SAFETY: the object is open until it is closed below, and so are its maps and
    // programs; the log lives longer.
    let loaded = unsafe {
        let mut map = ptr::null_mut();
        loop {
            map = sys::bpf_object__next_map(object, map);
            if map.is_null() {
                break;
            }
            if CStr::from_ptr(sys::bpf_map__name(map)).to_bytes().ends_with(b".rodata") {
                let mut size = 0;
                // `struct laminar_settings`: partitions, features.
                let settings: *mut u32 = sys::bpf_map__initial_value(map, &mut size).cast();
                if !settings.is_null() && size == 8 {
                    settings.add(1).write(features);
                }
            }
        }
        let mut other = ptr::null_mut();
        loop {
            other = sys::bpf_object__next_program(object, other);
            if other.is_null() {
                break;
            }
            let is_it = CStr::from_ptr(sys::bpf_program__name(other)) == program;
            sys::bpf_program__set_autoload(other, is_it);
            sys::bpf_program__set_log_level(other, LOG_STATS);
            sys::bpf_program__set_log_buf(other, log.as_mut_ptr().cast(), log.len() as _);
        }
        sys::bpf_object__load(object)
    };
    // SAFETY: opened above and closed once.
    unsafe { sys::bpf_object__close(object) };
    // SAFETY: puts the callback back that was there.
    unsafe { sys::libbpf_set_print(print) };
    let log = CStr::from_bytes_until_nul(&log)?.to_string_lossy().into_owned();
    ensure!(loaded == 0, "{program:?} is refused ({loaded}): {log}");
    parse(&log).with_context(|| format!("no figures of {program:?} in {log:?}"))
}

/// `processed 123 insns (limit 1000000) ... total_states 4 peak_states ...`
fn parse(log: &str) -> Option<VerifierCost> {
    let line = log.lines().find(|line| line.starts_with("processed "))?;
    let after = |word: &str| line.split(word).nth(1)?.split_whitespace().next()?.parse().ok();
    Some(VerifierCost { instructions: after("processed")?, states: after("total_states")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verifiers_line_is_read() {
        let log = "func#0 @0\nprocessed 232 insns (limit 1000000) max_states_per_insn 1 \
                   total_states 17 peak_states 17 mark_read 0\n";
        assert_eq!(parse(log), Some(VerifierCost { instructions: 232, states: 17 }));
        assert_eq!(parse("verification time 12 usec\n"), None);
    }
}
