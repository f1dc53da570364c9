//! Explains why an interface refused a program, and what to do. Nothing here asks the kernel:
//! the caller passes the facts.

use std::io;
use std::sync::Arc;

use crate::config::XdpAttachMode;
use crate::object::capabilities;
use crate::report::{ProgramIdentity, XdpError};
use crate::xdp::interface::Interface;
use crate::xdp::owner_lock::OwnerLock;

/// The error of attaching in one mode. The variant tells which other attempts may still work.
#[derive(Debug)]
pub enum AttachError {
    /// No other mode and no other object can help.
    Final(XdpError),
    /// No object works in this mode. Another mode may work, even with the same object.
    ThisMode(XdpError),
    /// This object does not work in this mode. Another object or another mode may work.
    ThisObject(XdpError),
}

impl AttachError {
    pub fn into_error(self) -> XdpError {
        match self {
            AttachError::Final(error)
            | AttachError::ThisMode(error)
            | AttachError::ThisObject(error) => error,
        }
    }
}

/// A failed attempt to attach, and the kernel's answer.
pub struct Refusal<'a> {
    pub interface: &'a Interface,
    pub mode: XdpAttachMode,
    pub steers: bool,
    pub error: io::Error,
    /// The kernel's own text, which only netlink returns.
    pub kernel_message: Option<String>,
    /// The program on the interface. `None` if there is none, or if it was not looked up.
    pub occupant: Option<ProgramIdentity>,
}

impl Refusal<'_> {
    /// Converts the kernel's errno into an error with advice.
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
                format!("{name} was removed meanwhile; `ip link` lists the interfaces"),
            ),
            // Here the driver has no XDP at all. With any other message, EOPNOTSUPP means that the
            // driver refuses its present settings, and the arms below match.
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
            // Other errnos depend on the driver, such as ENOSPC for too few queues.
            _ => (
                AttachError::ThisObject,
                format!("the driver of {name} refuses {mode} mode; {instead}"),
            ),
        }
    }
}

/// The error for an interface that has no program, but whose owner lock another process holds.
pub fn locked(interface: &Interface, mode: XdpAttachMode) -> AttachError {
    let advice = format!(
        "another process is about to attach there: it holds the Unix socket @{} (`ss -xp` shows \
         which process); end it, or wait until it has detached",
        OwnerLock::name(interface.index)
    );
    // Another object may still work. If the kernel has bpf_links, the kernel may have refused only
    // this object. Only netlink could explain that refusal, and attaching over netlink needs the
    // lock.
    AttachError::ThisObject(XdpError::Attach {
        interface: interface.name.clone(),
        mode,
        kernel_message: None,
        advice,
        source: Arc::new(io::Error::from_raw_os_error(libc::EADDRINUSE)),
    })
}

/// Advice if a packet does not fit into one buffer of the driver. The largest possible MTU differs
/// between drivers. An MTU of 1500 works with all drivers.
fn mtu_advice(interface: &str) -> String {
    format!(
        "lower the MTU of {interface} (of a veth: of its peer) until a packet fits into one \
         buffer of the driver (`ip link set dev {interface} mtu 1500`), use generic mode, or \
         Linux 5.18 and later with a driver that has multi-buffer XDP"
    )
}
