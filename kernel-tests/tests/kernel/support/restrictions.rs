//! What a thread gives up, for good, to meet the conditions of another machine.

use std::io;

use caps::{CapSet, Capability};
use testbed::seccomp;

/// The capabilities that the documentation asks for.
pub const LOADER_CAPABILITIES: [Capability; 3] =
    [Capability::CAP_BPF, Capability::CAP_PERFMON, Capability::CAP_NET_ADMIN];

/// Gives up all capabilities of the calling thread except the given ones.
pub fn keep_only(capabilities: &[Capability]) {
    let keep = capabilities.iter().copied().collect();
    caps::set(None, CapSet::Effective, &keep).unwrap();
    caps::set(None, CapSet::Permitted, &keep).unwrap();
}

/// Makes the kernel refuse to create a bpf_link for the calling thread. A kernel before 5.9
/// answers EINVAL to a link for XDP.
pub fn fail_link_create(errno: i32) -> io::Result<()> {
    // Of the kernel's `enum bpf_cmd`.
    const BPF_LINK_CREATE: u32 = 28;
    seccomp::deny_bpf_command(BPF_LINK_CREATE, errno)
}
