//! The program on an interface: attaching, replacing, detaching.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use libbpf_sys as sys;

use crate::config::XdpAttachMode;
use crate::error::XdpError;
use crate::kernel::interface::Interface;
use crate::kernel::libbpf::{self, interface};
use crate::kernel::mark::Mark;
use crate::kernel::{messages, rights};

/// A program on an interface. Dropping it detaches.
#[derive(Debug)]
pub struct Attachment {
    interface: Interface,
    mode: XdpAttachMode,
    /// None once it is detached.
    hold: Option<Hold>,
    /// The program of another process that holds it too: it is not ours to detach, and
    /// if it does not become ours, that program is put back.
    former: Option<OwnedFd>,
}

/// What keeps the program attached.
#[derive(Debug)]
pub enum Hold {
    /// The kernel detaches when the process ends, however it ends.
    Link(OwnedFd),
    /// Before Linux 5.9: the interface itself, until somebody detaches. The mark tells
    /// others that its owner lives.
    Netlink { program: OwnedFd, mark: Mark },
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
        let mode_flag = mode_flag(mode);
        let attached = |hold| Attachment::held(interface.clone(), mode, hold);

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
        // First, so that nobody takes it for one without an owner.
        let Some(mark) = Mark::set(interface.index) else {
            return Err(if no_links { marked(interface, mode) } else { explain(error, None) });
        };
        let (result, messages) = messages::capture(|| {
            let program = program.try_clone_to_owned()?;
            let flags = mode_flag | sys::XDP_FLAGS_UPDATE_IF_NOEXIST;
            interface::attach_xdp(interface.index, program.as_fd(), flags, None)?;
            Ok(attached(Hold::Netlink { program, mark }))
        });
        let said = kernel_words(&messages);
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

    fn held(interface: Interface, mode: XdpAttachMode, hold: Hold) -> Attachment {
        Attachment { interface, mode, hold: Some(hold), former: None }
    }

    /// What another process attached, with its program. Dropping this, or what replaced
    /// it, leaves that one at work, until [`Attachment::own`].
    pub fn provisional(
        interface: Interface,
        mode: XdpAttachMode,
        hold: Hold,
        former: OwnedFd,
    ) -> Attachment {
        Attachment { interface, mode, hold: Some(hold), former: Some(former) }
    }

    /// From now on it is ours, and ours to detach.
    pub fn own(&mut self) {
        self.former = None;
    }

    /// Puts another program in this one's place, in one step, and gives the attachment
    /// that holds it, provisional as this one.
    pub fn replaced(&self, program: BorrowedFd, steers: bool) -> Result<Attachment, AttachFailure> {
        let index = self.interface.index;
        let replace = || match &self.hold {
            None => Err(io::ErrorKind::NotConnected.into()),
            Some(Hold::Link(link)) => {
                let held = Hold::Link(link.try_clone()?);
                interface::update_link(link.as_fd(), program)?;
                Ok(held)
            }
            Some(Hold::Netlink { program: old, mark }) => {
                let copy = program.try_clone_to_owned()?;
                let held = Hold::Netlink { program: copy, mark: mark.try_clone()? };
                let flags = mode_flag(self.mode);
                let atomic = interface::attach_xdp(index, program, flags, Some(old.as_fd()));
                // Before Linux 5.7 the kernel cannot compare, so we do.
                if let Err(error) = atomic {
                    if error.raw_os_error() != Some(libc::EINVAL) || !self.is_there(old)? {
                        return Err(error);
                    }
                    interface::attach_xdp(index, program, flags, None)?;
                }
                Ok(held)
            }
        };
        let (result, messages) = messages::capture(|| {
            let former = self.former.as_ref().map(OwnedFd::try_clone).transpose()?;
            Ok((replace()?, former))
        });
        match result {
            Ok((hold, former)) => {
                let (interface, mode) = (self.interface.clone(), self.mode);
                Ok(Attachment { interface, mode, hold: Some(hold), former })
            }
            Err(error) => {
                let said = kernel_words(&messages);
                Err(explain(&self.interface, self.mode, steers, error, said))
            }
        }
    }

    /// Native or generic.
    pub fn mode(&self) -> XdpAttachMode {
        self.mode
    }

    /// The interface's name.
    pub fn interface(&self) -> &str {
        &self.interface.name
    }

    /// Whether the attachment ends with the process.
    pub fn ends_with_process(&self) -> bool {
        matches!(self.hold, Some(Hold::Link(_)))
    }

    /// What keeps the program attached; `None` once it is detached.
    pub fn hold(&self) -> Option<&Hold> {
        self.hold.as_ref()
    }

    /// The interface.
    pub fn on(&self) -> &Interface {
        &self.interface
    }

    /// Puts its program back, where another process replaced it and then failed.
    pub fn reclaim(&self, program: &OwnedFd) -> io::Result<()> {
        match &self.hold {
            None => Ok(()),
            Some(Hold::Link(link)) => interface::update_link(link.as_fd(), program.as_fd()),
            Some(Hold::Netlink { program: own, .. }) => {
                if self.is_there(own)? {
                    return Ok(());
                }
                let Some(other) = self.interface.ours() else { return Ok(()) };
                let (index, flags) = (self.interface.index, mode_flag(self.mode));
                interface::attach_xdp(index, own.as_fd(), flags, Some(other.as_fd()))
            }
        }
    }

    /// Lets go without detaching: another attachment holds the program's place.
    pub fn release(&mut self) {
        (self.hold, self.former) = (None, None);
    }

    /// Takes the program off the interface. A program that somebody put there
    /// since is left alone.
    pub fn detach(&mut self) -> io::Result<()> {
        match &self.hold {
            None => {}
            // Closing the link detaches as well, if a moment later.
            Some(Hold::Link(link)) => drop(interface::detach_link(link.as_fd())),
            Some(Hold::Netlink { program, .. }) => {
                let (result, messages) =
                    messages::capture(|| take_off(self.interface.index, program, self.mode));
                result.inspect_err(|_| tracing::debug!(messages, "detaching through netlink"))?;
            }
        }
        self.hold = None;
        Ok(())
    }

    fn is_there(&self, program: &OwnedFd) -> io::Result<bool> {
        is_attached(self.interface.index, program)
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        // Where it was not replaced this changes nothing.
        if let Some(former) = self.former.take() {
            match self.replaced(former.as_fd(), true) {
                Ok(mut back) => back.release(),
                Err(_) => tracing::warn!("the other process's program could not be put back"),
            }
            return;
        }
        if let Err(error) = self.detach() {
            let interface = &self.interface.name;
            tracing::warn!(%interface, %error, "the XDP program could not be detached");
        }
    }
}

/// What the kernel said through netlink, out of what libbpf makes of it.
fn kernel_words(messages: &str) -> Option<String> {
    messages.trim().rsplit_once("message: ").map(|(_, text)| text.into())
}

fn mode_flag(mode: XdpAttachMode) -> u32 {
    match mode {
        XdpAttachMode::Generic => sys::XDP_FLAGS_SKB_MODE,
        _ => sys::XDP_FLAGS_DRV_MODE,
    }
}

/// Whether this very program is on an interface.
pub fn is_attached(index: i32, program: &OwnedFd) -> io::Result<bool> {
    let (id, ..) = libbpf::program_info(program)?;
    Ok(interface::attached_program(index)? == Some(id))
}

/// Takes a program that no link holds off an interface, if it is still there.
pub fn take_off(index: i32, program: &OwnedFd, mode: XdpAttachMode) -> io::Result<()> {
    let result = interface::detach_xdp(index, Some(program.as_fd()), mode_flag(mode));
    let Err(error) = result else { return Ok(()) };
    if !is_attached(index, program)? {
        return Ok(()); // somebody took it off, or replaced it
    }
    match error.raw_os_error() {
        // Before Linux 5.7 the kernel cannot compare, so we did.
        Some(libc::EINVAL) => interface::detach_xdp(index, None, mode_flag(mode)),
        _ => Err(error),
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

/// Somebody else says that the interface is theirs, and nothing is on it.
fn marked(interface: &Interface, mode: XdpAttachMode) -> AttachFailure {
    let advice = format!(
        "another process is about to attach there: it holds the Unix socket @{} (`ss -xp` shows \
         whose it is); end it, or wait until it has detached",
        Mark::name(interface.index)
    );
    AttachFailure::Final(XdpError::Attach {
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
