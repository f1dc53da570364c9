//! Measures how much work a program causes the kernel's verifier.

use std::ffi::CStr;

use anyhow::{Context, Result};
use libbpf_sys as sys;

use crate::bpf::object::{Object, without_messages};

/// The verifier's statistics for one program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VerifierCost {
    /// The number of instructions that the verifier processed, summed over all paths. The
    /// kernel's limit is one million.
    pub instructions: u32,
    /// The number of states that the verifier stored.
    pub states: u32,
}

/// `BPF_LOG_STATS` of `linux/bpf_verifier.h` (Linux 5.2).
const LOG_STATS: u32 = 4;

/// Loads one program of an object file, reads the verifier's statistics and unloads the
/// program. If the object has settings, their `features` field is set to `features`.
pub fn verifier_cost(path: &str, program: &CStr, features: u32) -> Result<VerifierCost> {
    let mut log = vec![0u8; 1 << 16];
    without_messages(|| -> Result<()> {
        let object = Object::open(path)?;
        for mut map in object.maps() {
            if map.name().to_bytes().ends_with(b".rodata") {
                // The section holds a `struct laminar_settings`, whose second word is
                // `features`.
                let settings = map.initial_value().and_then(|settings| settings.get_mut(4..8));
                if let Some(settings) = settings {
                    settings.copy_from_slice(&features.to_ne_bytes());
                }
            }
        }
        for other in object.programs() {
            // SAFETY: the object is open, and `log` outlives the object.
            unsafe {
                sys::bpf_program__set_autoload(other.as_ptr(), other.name() == program);
                sys::bpf_program__set_log_level(other.as_ptr(), LOG_STATS);
                let size = log.len() as _;
                sys::bpf_program__set_log_buf(other.as_ptr(), log.as_mut_ptr().cast(), size);
            }
        }
        object.load().with_context(|| {
            let log = CStr::from_bytes_until_nul(&log).unwrap_or_default().to_string_lossy();
            format!("the verifier rejects {program:?}: {log}")
        })
    })?;
    let log = CStr::from_bytes_until_nul(&log)?.to_string_lossy();
    parse(&log).with_context(|| format!("the verifier printed no statistics: {log:?}"))
}

/// Reads `processed 123 insns (limit 1000000) ... total_states 4 peak_states ...`.
fn parse(log: &str) -> Option<VerifierCost> {
    let line = log.lines().find(|line| line.starts_with("processed "))?;
    let after = |word: &str| line.split(word).nth(1)?.split_whitespace().next()?.parse().ok();
    Some(VerifierCost { instructions: after("processed")?, states: after("total_states")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verifier_statistics_are_parsed() {
        let log = "func#0 @0\nprocessed 232 insns (limit 1000000) max_states_per_insn 1 \
                   total_states 17 peak_states 17 mark_read 0\n";
        assert_eq!(parse(log), Some(VerifierCost { instructions: 232, states: 17 }));
        assert_eq!(parse("verification time 12 usec\n"), None);
    }
}
