//! Lists the XDP programs on an interface, for tools that inspect programs of other processes.
//!
//! This module needs the feature `inspect`. The module only reads, and asks only the kernel. It
//! works even if the process that attached a program hangs.

use crate::config::XdpAttachMode;
use crate::report::{ProgramIdentity, XdpError};
#[cfg(all(target_os = "linux", not(laminar_xdp_unsupported)))]
use crate::xdp::{Interface, Occupant};

/// A program that an interface carries.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct AttachedProgram {
    /// Native, generic or offload.
    pub mode: XdpAttachMode,
    /// The program's id, name and tag. Reading name and tag needs CAP_SYS_ADMIN.
    pub identity: ProgramIdentity,
}

/// The XDP programs on an interface of the calling thread's network namespace: none, one,
/// or one for each mode.
///
/// ```no_run
/// for program in laminar_xdp::inspect::attached_programs("eth0")? {
///     println!("{} mode: {}", program.mode, program.identity);
/// }
/// # Ok::<(), laminar_xdp::XdpError>(())
/// ```
///
/// # Errors
/// [`XdpError::InterfaceNotFound`]; [`XdpError::Kernel`] if the kernel does not answer.
pub fn attached_programs(interface: &str) -> Result<Vec<AttachedProgram>, XdpError> {
    programs_on(interface)
}

#[cfg(all(target_os = "linux", not(laminar_xdp_unsupported)))]
fn programs_on(interface: &str) -> Result<Vec<AttachedProgram>, XdpError> {
    let occupants = Occupant::find_all(&Interface::find(interface)?)?;
    let attached =
        |occupant: Occupant| AttachedProgram { mode: occupant.mode, identity: occupant.identity };
    Ok(occupants.into_iter().map(attached).collect())
}

#[cfg(not(all(target_os = "linux", not(laminar_xdp_unsupported))))]
fn programs_on(_interface: &str) -> Result<Vec<AttachedProgram>, XdpError> {
    Err(XdpError::UnsupportedPlatform { platform: std::env::consts::OS })
}
