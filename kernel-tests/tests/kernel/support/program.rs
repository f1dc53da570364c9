//! Access to the loaded program, so that tests can run it on crafted frames.

use std::os::fd::OwnedFd;

use anyhow::Result;
use laminar_xdp::XdpLoader;
use testbed::bpf;

// From the kernel's `enum xdp_action`.
pub const DROP: u32 = 1;
pub const PASS: u32 = 2;
pub const REDIRECT: u32 = 4;

/// The program that a loader attached.
pub fn program_of(loader: &XdpLoader) -> Result<OwnedFd> {
    bpf::program_by_id(loader.program_id()?)
}
