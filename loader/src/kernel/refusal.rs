//! Why an interface does not take a program, and what to do about it.

use std::io;

use crate::config::XdpAttachMode;
use crate::error::XdpError;
use crate::kernel::interface::Interface;
use crate::kernel::mark::Mark;
use crate::kernel::rights;

/// Why the interface does not take the program in one mode.
#[derive(Debug)]
pub enum AttachFailure {
    /// No other mode or object can help.
    Final(XdpError),
    /// Another mode may do, with any object.
    ThisMode(XdpError),
    /// Another object may do, or another mode.
    ThisObject(XdpError),
}

/// The errnos of attaching that a user meets, translated.
pub fn explain(
    interface: &Interface,
    mode: XdpAttachMode,
    steers: bool,
    reason: io::Error,
    kernel_message: Option<String>,
) -> AttachFailure {
    let name = &interface.name;
    let instead = match mode {
        XdpAttachMode::Generic => "use plain sockets",
        _ => "use generic mode, or plain sockets",
    };
    let said = kernel_message.as_deref().unwrap_or_default();
    let (failure, advice): (fn(XdpError) -> AttachFailure, String) = match reason.raw_os_error() {
        Some(libc::EBUSY | libc::EEXIST) => match interface.check_free() {
            Err(busy) => return AttachFailure::Final(busy),
            Ok(()) => {
                let advice = format!(
                    "an interface above {name}, such as a bridge or bond, may carry an XDP program \
                     (`ip link` shows it); if none does, try again"
                );
                (AttachFailure::ThisMode, advice)
            }
        },
        _ if rights::is_denied(&reason) => {
            return AttachFailure::Final(rights::denied(rights::ATTACH));
        }
        Some(libc::ENODEV) => (
            AttachFailure::Final,
            format!("{name} was removed meanwhile; `ip link` lists what is there"),
        ),
        // With other words it is about the driver's settings.
        Some(libc::EOPNOTSUPP) if said.is_empty() || said.contains("does not support XDP") => {
            (AttachFailure::ThisMode, format!("the driver of {name} has no {mode} XDP; {instead}"))
        }
        Some(libc::ERANGE | libc::EMSGSIZE) => (AttachFailure::ThisObject, mtu_advice(name)),
        Some(libc::EINVAL) if mode == XdpAttachMode::Generic && steers => {
            let advice = "this kernel cannot steer in generic mode, so it refuses the object; \
                          use native mode, Linux 5.15 and later, or an object that filters \
                          without steering there (linux-5.3)";
            (AttachFailure::ThisObject, advice.into())
        }
        Some(libc::EINVAL | libc::EOPNOTSUPP) if mode == XdpAttachMode::Native => (
            AttachFailure::ThisObject,
            format!(
                "the driver of {name} refuses its present settings, most often an MTU too large \
                 for native XDP: {}",
                mtu_advice(name)
            ),
        ),
        // Drivers have their own, such as ENOSPC for too few queues.
        _ => (
            AttachFailure::ThisObject,
            format!("the driver of {name} refuses {mode} mode; {instead}"),
        ),
    };
    failure(XdpError::Attach { interface: name.clone(), mode, reason, kernel_message, advice })
}

/// Somebody else says that the interface is theirs, and nothing is on it.
pub fn marked(interface: &Interface, mode: XdpAttachMode) -> AttachFailure {
    let advice = format!(
        "another process is about to attach there: it holds the Unix socket @{} (`ss -xp` shows \
         whose it is); end it, or wait until it has detached",
        Mark::name(interface.index)
    );
    // A kernel with links may only have had something against this object.
    AttachFailure::ThisObject(XdpError::Attach {
        interface: interface.name.clone(),
        mode,
        reason: io::Error::from_raw_os_error(libc::EADDRINUSE),
        kernel_message: None,
        advice,
    })
}

/// What leaves a packet in one buffer differs from driver to driver; 1500 does
/// everywhere.
fn mtu_advice(interface: &str) -> String {
    format!(
        "lower the MTU of {interface} (of a veth: of its peer) until a packet fits into one \
         buffer of the driver (`ip link set dev {interface} mtu 1500`), use generic mode, or \
         Linux 5.18 and later with a driver that has multi-buffer XDP"
    )
}
