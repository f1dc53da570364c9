//! Why an interface does not take a program, and what to do about it. Nothing here asks
//! the kernel: the caller passes what it found.

use std::io;
use std::sync::Arc;

use crate::config::XdpAttachMode;
use crate::object::capabilities;
use crate::report::{ProgramIdentity, XdpError};
use crate::xdp::interface::Interface;
use crate::xdp::owner_lock::OwnerLock;

/// Why the interface does not take the program in one mode, by what may still work.
#[derive(Debug)]
pub enum AttachError {
    /// No other mode and no other object can help.
    Final(XdpError),
    /// Another mode may work, with any object.
    ThisMode(XdpError),
    /// Another object may work, or another mode.
    ThisObject(XdpError),
}

/// What was tried, and what the kernel answered.
pub struct Refusal<'a> {
    pub interface: &'a Interface,
    pub mode: XdpAttachMode,
    pub steers: bool,
    pub error: io::Error,
    /// The kernel's own text, which only netlink returns.
    pub kernel_message: Option<String>,
    /// The program on the interface, if it was looked up and there is one.
    pub occupant: Option<ProgramIdentity>,
}

impl Refusal<'_> {
    /// Says in words what the kernel's errno for an attach means.
    pub fn explain(self) -> AttachError {
        let (name, mode) = (&self.interface.name, self.mode);
        if let Some(holder) = self.occupant {
            return AttachError::Final(XdpError::Busy { interface: name.clone(), holder });
        }
        if capabilities::is_denied(&self.error) {
            return AttachError::Final(capabilities::denied(capabilities::ATTACH));
        }
        let (kind, advice) = self.advice();
        kind(XdpError::Attach {
            interface: name.clone(),
            mode,
            kernel_message: self.kernel_message,
            advice,
            source: Arc::new(self.error),
        })
    }

    fn advice(&self) -> (fn(XdpError) -> AttachError, String) {
        let (name, mode) = (&self.interface.name, self.mode);
        let instead = match mode {
            XdpAttachMode::Generic => "use plain sockets",
            _ => "use generic mode, or plain sockets",
        };
        let message = self.kernel_message.as_deref().unwrap_or_default();
        match self.error.raw_os_error() {
            Some(libc::EBUSY | libc::EEXIST) => (
                AttachError::ThisMode,
                format!(
                    "an interface above {name}, such as a bridge or bond, may carry an XDP \
                     program (`ip link` shows it); if none does, try again"
                ),
            ),
            Some(libc::ENODEV) => (
                AttachError::Final,
                format!("{name} was removed meanwhile; `ip link` lists what is there"),
            ),
            // With any other text the error is about the driver's present settings.
            Some(libc::EOPNOTSUPP)
                if message.is_empty() || message.contains("does not support XDP") =>
            {
                (
                    AttachError::ThisMode,
                    format!("the driver of {name} has no {mode} XDP; {instead}"),
                )
            }
            Some(libc::ERANGE | libc::EMSGSIZE) => (AttachError::ThisObject, mtu_advice(name)),
            Some(libc::EINVAL) if mode == XdpAttachMode::Generic && self.steers => (
                AttachError::ThisObject,
                "this kernel cannot steer in generic mode, so it refuses the object; use native \
                 mode, Linux 5.15 and later, or an object that filters without steering there \
                 (linux-5.3)"
                    .into(),
            ),
            Some(libc::EINVAL | libc::EOPNOTSUPP) if mode == XdpAttachMode::Native => (
                AttachError::ThisObject,
                format!(
                    "the driver of {name} refuses its present settings, most often an MTU too \
                     large for native XDP: {}",
                    mtu_advice(name)
                ),
            ),
            // Drivers have errors of their own, such as ENOSPC for too few queues.
            _ => (
                AttachError::ThisObject,
                format!("the driver of {name} refuses {mode} mode; {instead}"),
            ),
        }
    }
}

/// The error for an interface whose owner lock another process holds while no program is
/// attached.
pub fn locked(interface: &Interface, mode: XdpAttachMode) -> AttachError {
    let advice = format!(
        "another process is about to attach there: it holds the Unix socket @{} (`ss -xp` shows \
         which process); end it, or wait until it has detached",
        OwnerLock::name(interface.index)
    );
    // Another object may still work: on a kernel with bpf_links, the refusal that led here
    // may have been about this object alone.
    AttachError::ThisObject(XdpError::Attach {
        interface: interface.name.clone(),
        mode,
        kernel_message: None,
        advice,
        source: Arc::new(io::Error::from_raw_os_error(libc::EADDRINUSE)),
    })
}

/// The MTU up to which a packet fits into one buffer differs between drivers. 1500 works
/// with all of them.
fn mtu_advice(interface: &str) -> String {
    format!(
        "lower the MTU of {interface} (of a veth: of its peer) until a packet fits into one \
         buffer of the driver (`ip link set dev {interface} mtu 1500`), use generic mode, or \
         Linux 5.18 and later with a driver that has multi-buffer XDP"
    )
}
