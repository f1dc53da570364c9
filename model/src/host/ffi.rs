//! The structs and functions of `model/host/program.h`.
//!
//! The compiler cannot compare a C header with its Rust declarations, and a difference would make
//! the C code read wrong memory. Therefore [`check_layout`] compares the two at run time, before
//! the first call.

use std::ffi::{CStr, c_char, c_ulong};
use std::mem::offset_of;
use std::sync::OnceLock;

use laminar_xdp_prebuilt::abi::{
    laminar_controls, laminar_prefix, laminar_settings, laminar_source,
};

pub const HOST_MAX_SOURCES: usize = 64;
pub const HOST_NO_REASON: u32 = u32::MAX;

#[repr(C)]
#[derive(Clone, Copy)]
pub struct HostBucket {
    pub source: laminar_source,
    pub full_at: u64,
}

#[repr(C)]
#[derive(Clone)]
pub struct HostSources {
    pub count: u32,
    pub buckets: [HostBucket; HOST_MAX_SOURCES],
}

#[repr(C)]
pub struct HostConfig {
    pub settings: laminar_settings,
    pub controls: laminar_controls,
    pub queues: *const u16,
    pub deny: *const laminar_prefix,
    pub allow: *const laminar_prefix,
    pub deny_count: u32,
    pub allow_count: u32,
    pub now: u64,
    pub sources: *mut HostSources,
}

#[repr(C)]
pub struct HostPacket {
    pub first: *const u8,
    pub first_len: u64,
    pub bytes: *const u8,
    pub len: u64,
}

#[repr(C)]
#[derive(Default)]
pub struct HostAnswer {
    pub verdict: u32,
    pub cpu: u32,
    pub counted: u32,
    pub reason: u32,
    pub bytes: u64,
    pub sampled: u32,
    pub faults: u32,
}

#[repr(C)]
struct HostLayout {
    expression: *const c_char,
    value: c_ulong,
}

pub type Judge = unsafe extern "C" fn(*const HostPacket, *const HostConfig, *mut HostAnswer);

unsafe extern "C" {
    pub fn host_judge(_: *const HostPacket, _: *const HostConfig, _: *mut HostAnswer);
    pub fn host_judge_frags(_: *const HostPacket, _: *const HostConfig, _: *mut HostAnswer);
    pub fn host_verdict_of(reason: u32) -> i32;
    /// Returns an array. The `expression` of its last entry is null.
    fn host_layout() -> *const HostLayout;
}

impl HostSources {
    pub const EMPTY: HostSources = HostSources {
        count: 0,
        buckets: [HostBucket { source: laminar_source { family: 0, address: [0; 16] }, full_at: 0 };
            HOST_MAX_SOURCES],
    };
}

/// A C expression, and its value in C or in Rust.
type Value = (String, u64);

macro_rules! layout {
    ($($name:literal $rust:ty { $($field:ident)* })*) => {
        vec![$(
            (format!("sizeof(struct {})", $name), size_of::<$rust>() as u64),
            $((
                format!("offsetof(struct {}, {})", $name, stringify!($field)),
                offset_of!($rust, $field) as u64,
            ),)*
        )*]
    };
}

/// The expressions of `model/host/layout.c` with their values in Rust.
fn rust_layout() -> Vec<Value> {
    let mut values = layout! {
        // Sizes only: bindgen generated assertions for the offsets in these four structs.
        "laminar_settings" laminar_settings {}
        "laminar_controls" laminar_controls {}
        "laminar_source" laminar_source {}
        "laminar_prefix" laminar_prefix {}
        "host_bucket" HostBucket { source full_at }
        "host_sources" HostSources { count buckets }
        "host_config" HostConfig {
            settings controls queues deny allow deny_count allow_count now sources
        }
        "host_packet" HostPacket { first first_len bytes len }
        "host_answer" HostAnswer { verdict cpu counted reason bytes sampled faults }
    };
    values.push(("HOST_MAX_SOURCES".into(), HOST_MAX_SOURCES as u64));
    values.push(("HOST_NO_REASON".into(), HOST_NO_REASON.into()));
    values
}

fn c_layout() -> Vec<Value> {
    let mut values = Vec::new();
    // SAFETY: `host_layout` has no precondition. `entry` stays within the array, because the
    // loop ends at the last entry, whose expression is null. The other expressions are string
    // literals.
    unsafe {
        let mut entry = host_layout();
        while !(*entry).expression.is_null() {
            let expression = CStr::from_ptr((*entry).expression).to_string_lossy().into_owned();
            values.push((expression, (*entry).value));
            entry = entry.add(1);
        }
    }
    values
}

/// Compares the layout of every struct in Rust with its layout in C.
///
/// # Panics
/// Panics if a layout differs. The message names the structs and fields.
pub fn check_layout() {
    static DIFFERENCES: OnceLock<Vec<String>> = OnceLock::new();
    let differences = DIFFERENCES.get_or_init(|| differences(&c_layout(), &rust_layout()));
    assert!(
        differences.is_empty(),
        "model/src/host/ffi.rs (or bpf-prebuilt/src/abi.rs, which `make bpf` writes) differs from \
         model/host/program.h:\n  {}",
        differences.join("\n  ")
    );
}

fn differences(c: &[Value], rust: &[Value]) -> Vec<String> {
    let value = |values: &[Value], expression: &str| {
        let found = values.iter().find(|(other, _)| other == expression);
        found.map_or_else(|| "missing".to_string(), |(_, value)| value.to_string())
    };
    let mut expressions: Vec<&String> = c.iter().chain(rust).map(|(name, _)| name).collect();
    expressions.sort();
    expressions.dedup();
    let lines = expressions.into_iter().filter_map(|expression| {
        let (c, rust) = (value(c, expression), value(rust, expression));
        (c != rust).then(|| format!("{expression} is {c} in C and {rust} in Rust"))
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c_and_rust_agree_about_the_layout() {
        assert!(c_layout().len() > 30);
        check_layout();
    }

    #[test]
    fn differences_are_named() {
        let values = |values: &[(&str, u64)]| -> Vec<Value> {
            values.iter().map(|(name, value)| (name.to_string(), *value)).collect()
        };
        let c = values(&[("same", 1), ("moved", 8), ("only_in_c", 4)]);
        let rust = values(&[("only_in_rust", 4), ("moved", 16), ("same", 1)]);
        assert_eq!(
            differences(&c, &rust),
            [
                "moved is 8 in C and 16 in Rust",
                "only_in_c is 4 in C and missing in Rust",
                "only_in_rust is missing in C and 4 in Rust",
            ]
        );
    }
}
