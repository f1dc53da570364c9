//! The program on an interface: whose turn it is, attaching, detaching.

use std::ffi::{CString, c_int};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use libbpf_sys as sys;

use crate::config::XdpAttachMode;
use crate::error::{ProgramIdentity, XdpError};
use crate::kernel::libbpf::{self, interface};
use crate::kernel::{messages, rights};

/// An interface of the network namespace that the thread was in.
#[derive(Debug, Clone)]
pub struct Interface {
    pub name: String,
    index: c_int,
    /// The driver's name, if it tells one.
    pub driver: Option<String>,
}

impl Interface {
    pub fn find(name: &str) -> Result<Interface, XdpError> {
        let not_found = || XdpError::InterfaceNotFound { interface: name.into() };
        let c_name = CString::new(name).map_err(|_| not_found())?;
        let index = interface::index(&c_name).ok_or_else(not_found)?;
        Ok(Interface { name: name.into(), index, driver: interface::driver(&c_name) })
    }

    /// Fails if any program is attached, whoever's it is.
    pub fn check_free(&self) -> Result<(), XdpError> {
        match interface::attached_program(self.index) {
            Ok(None) => Ok(()),
            Ok(Some(id)) => Err(self.busy(id)),
            Err(reason) => Err(XdpError::Kernel {
                action: format!("ask which XDP program {} carries", self.name),
                reason,
            }),
        }
    }

    fn busy(&self, id: u32) -> XdpError {
        let info =
            libbpf::program_by_id(id).and_then(|program| libbpf::program_info(&program)).ok();
        let (name, tag) = match info {
            Some((_, name, tag)) => {
                (Some(name), Some(tag.iter().map(|byte| format!("{byte:02x}")).collect()))
            }
            None => (None, None),
        };
        XdpError::Busy { interface: self.name.clone(), holder: ProgramIdentity { id, name, tag } }
    }
}

/// A program on an interface. Dropping it detaches.
#[derive(Debug)]
pub struct Attachment {
    interface: Interface,
    mode_flag: u32,
    /// None once it is detached.
    hold: Option<Hold>,
}

/// What keeps the program attached.
#[derive(Debug)]
enum Hold {
    /// The kernel detaches when the process ends, however it ends.
    Link(OwnedFd),
    /// Before Linux 5.9: the interface itself, until somebody detaches.
    Netlink { program: OwnedFd },
}

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

impl Attachment {
    /// Attaches in exactly the given mode, native or generic.
    pub fn attach(
        interface: &Interface,
        program: BorrowedFd,
        mode: XdpAttachMode,
        steers: bool,
    ) -> Result<Attachment, AttachFailure> {
        let explain = |error, said| explain(interface, mode, steers, error, said);
        let mode_flag = match mode {
            XdpAttachMode::Generic => sys::XDP_FLAGS_SKB_MODE,
            _ => sys::XDP_FLAGS_DRV_MODE,
        };
        let attached =
            |hold| Attachment { interface: interface.clone(), mode_flag, hold: Some(hold) };

        let error = match interface::create_xdp_link(program, interface.index, mode_flag) {
            Ok(link) => return Ok(attached(Hold::Link(link))),
            Err(error) => error,
        };
        if rights::is_denied(&error) || error.raw_os_error() == Some(libc::ENODEV) {
            return Err(explain(error, None));
        }
        // A link's errno is all that it says; netlink adds the kernel's own words.
        // A kernel without XDP links says EINVAL, as do drivers for reasons of their
        // own: there netlink is the answer to the first and explains the second.
        let no_links = error.raw_os_error() == Some(libc::EINVAL);
        let (result, messages) = messages::capture(|| {
            let program = program.try_clone_to_owned()?;
            let flags = mode_flag | sys::XDP_FLAGS_UPDATE_IF_NOEXIST;
            interface::attach_xdp(interface.index, program.as_fd(), flags)?;
            Ok(attached(Hold::Netlink { program }))
        });
        let said = messages.trim().rsplit_once("message: ").map(|(_, text)| text.to_string());
        match result {
            Ok(attachment) if no_links => Ok(attachment),
            // What was in the way is gone. Taken off again, since without a link it
            // would outlive the process.
            Ok(attachment) => {
                drop(attachment);
                Err(explain(error, None))
            }
            Err(by_netlink) if no_links => Err(explain(by_netlink, said)),
            Err(_) => Err(explain(error, said)),
        }
    }

    /// The interface's name.
    pub fn interface(&self) -> &str {
        &self.interface.name
    }

    /// Whether the attachment ends with the process.
    pub fn ends_with_process(&self) -> bool {
        matches!(self.hold, Some(Hold::Link(_)))
    }

    /// Takes the program off the interface. A program that somebody put there
    /// since is left alone.
    pub fn detach(&mut self) -> io::Result<()> {
        match &self.hold {
            None => {}
            // Closing the link detaches as well, if a moment later.
            Some(Hold::Link(link)) => drop(interface::detach_link(link.as_fd())),
            Some(Hold::Netlink { program }) => {
                let (result, messages) = messages::capture(|| self.detach_netlink(program));
                result.inspect_err(|_| tracing::debug!(messages, "detaching through netlink"))?;
            }
        }
        self.hold = None;
        Ok(())
    }

    fn detach_netlink(&self, program: &OwnedFd) -> io::Result<()> {
        let index = self.interface.index;
        let result = interface::detach_xdp(index, Some(program.as_fd()), self.mode_flag);
        let Err(error) = result else { return Ok(()) };
        let (ours, ..) = libbpf::program_info(program)?;
        if interface::attached_program(index)? != Some(ours) {
            return Ok(()); // somebody took it off, or replaced it
        }
        match error.raw_os_error() {
            // Before Linux 5.7 the kernel cannot compare, so we did.
            Some(libc::EINVAL) => interface::detach_xdp(index, None, self.mode_flag),
            _ => Err(error),
        }
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        if let Err(error) = self.detach() {
            let interface = &self.interface.name;
            tracing::warn!(%interface, %error, "the XDP program could not be detached");
        }
    }
}

/// The errnos of attaching that a user meets, translated.
fn explain(
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

/// What leaves a packet in one buffer differs from driver to driver; 1500 does
/// everywhere.
fn mtu_advice(interface: &str) -> String {
    format!(
        "lower the MTU of {interface} (of a veth: of its peer) until a packet fits into one \
         buffer of the driver (`ip link set dev {interface} mtu 1500`), use generic mode, or \
         Linux 5.18 and later with a driver that has multi-buffer XDP"
    )
}
