//! Whether this thread may load and attach programs, and what it lacks: a capability, or
//! descriptors.

use std::fs;
use std::io;
use std::sync::Arc;

use crate::report::XdpError;
use crate::sys::poll::EventFd;

/// Bits of a capability set, from the kernel's `linux/capability.h`.
const CAP_NET_ADMIN: u32 = 12;
const CAP_SYS_ADMIN: u32 = 21;
const CAP_PERFMON: u32 = 38;
const CAP_BPF: u32 = 39;

/// The purposes of capabilities, for error messages.
pub const LOAD: &str = "load BPF programs and maps";
pub const ATTACH: &str = "attach XDP programs to an interface";

/// Loading an object needs fewer descriptors than this: for its maps, its programs, and what
/// libbpf and the probes open for a moment.
const DESCRIPTORS: usize = 32;

/// Fails unless the process can open the descriptors that loading an object needs. Without this
/// check, a shortage has misleading errors: libbpf reports an object that it cannot read, or loads
/// a program without one of its maps, and a less suitable object may be loaded instead.
pub fn check_descriptors() -> Result<(), XdpError> {
    let opened = (0..DESCRIPTORS).map(|_| EventFd::new()).collect::<io::Result<Vec<_>>>();
    let needed = DESCRIPTORS;
    opened
        .map(drop)
        .map_err(|error| XdpError::TooFewDescriptors { needed, source: Arc::new(error) })
}

/// Fails with the first capability that is missing.
pub fn check() -> Result<(), XdpError> {
    // Without /proc the capabilities are unknown. If a capability is missing, a later call fails
    // with EPERM, and `denied` makes the error.
    let Some(effective) = effective_capabilities() else { return Ok(()) };
    let has = |capability: u32| effective >> capability & 1 == 1;
    // Linux 5.8 split CAP_BPF and CAP_PERFMON from CAP_SYS_ADMIN. CAP_SYS_ADMIN still includes
    // both.
    let missing = |capability| !has(capability) && !has(CAP_SYS_ADMIN);
    let (capability, purpose) = if missing(CAP_BPF) {
        ("CAP_BPF (CAP_SYS_ADMIN before Linux 5.8)", LOAD)
    } else if missing(CAP_PERFMON) {
        ("CAP_PERFMON", "load programs that walk a packet's options and lengths")
    } else if !has(CAP_NET_ADMIN) {
        ("CAP_NET_ADMIN", ATTACH)
    } else {
        return Ok(());
    };
    Err(XdpError::MissingCapability { capability, purpose })
}

/// Whether this thread has the capability to load programs for sockets.
pub fn may_load() -> bool {
    let bit = |capability: u32| 1 << capability;
    effective_capabilities().is_none_or(|set| set & (bit(CAP_BPF) | bit(CAP_SYS_ADMIN)) != 0)
}

/// The error for an EPERM after [`check`] has succeeded. There are two possible causes. This
/// thread may have the capabilities only in a user namespace below the initial one. Or something
/// else, such as lockdown, forbids the call.
pub fn denied(purpose: &'static str) -> XdpError {
    XdpError::MissingCapability {
        capability: "CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN in the initial user namespace \
                     (or lockdown or SELinux forbids it, or before Linux 5.11 RLIMIT_MEMLOCK is \
                     too low: `ulimit -l unlimited`)",
        purpose,
    }
}

pub fn is_denied(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EPERM | libc::EACCES))
}

fn effective_capabilities() -> Option<u64> {
    let status = fs::read_to_string("/proc/thread-self/status").ok()?;
    let set = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(set.trim(), 16).ok()
}
