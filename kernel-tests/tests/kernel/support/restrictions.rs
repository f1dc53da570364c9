//! Restrictions of the calling thread that emulate an unprivileged process or an older kernel. The
//! thread cannot undo them.

use std::io;

use caps::{CapSet, Capability};
use testbed::seccomp;

/// The capabilities that the loader needs, according to the documentation of `laminar-xdp`.
pub const LOADER_CAPABILITIES: [Capability; 3] =
    [Capability::CAP_BPF, Capability::CAP_PERFMON, Capability::CAP_NET_ADMIN];

/// Drops all capabilities of the calling thread except the given capabilities.
pub fn keep_only(capabilities: &[Capability]) {
    let keep = capabilities.iter().copied().collect();
    caps::set(None, CapSet::Effective, &keep).unwrap();
    caps::set(None, CapSet::Permitted, &keep).unwrap();
}

/// Makes the creation of any bpf_link fail with `errno` in the calling thread. On a kernel before
/// 5.9, the creation of a link for XDP fails with EINVAL.
pub fn fail_link_create(errno: i32) -> io::Result<()> {
    // From the kernel's `enum bpf_cmd`.
    const BPF_LINK_CREATE: u32 = 28;
    seccomp::deny_bpf_command(BPF_LINK_CREATE, errno)
}
