//! A program on an interface: attaches, replaces and detaches it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use libbpf_sys as libbpf;

use crate::config::XdpAttachMode;
use crate::ids::InterfaceIndex;
use crate::object::capabilities;
use crate::sys::{libbpf_print, xdp_attach};
use crate::xdp::attach_error::{AttachError, Refusal, locked};
use crate::xdp::hook;
use crate::xdp::interface::Interface;
use crate::xdp::occupant::Occupant;
use crate::xdp::owner_lock::OwnerLock;

/// A program on an interface. Dropping it detaches.
#[derive(Debug)]
pub struct Attachment {
    interface: Interface,
    mode: XdpAttachMode,
    /// `None` once the program is detached or released.
    hold: Option<Hold>,
    /// During a hand-over, the program of the other process. While this is set, dropping the
    /// attachment attaches that program again instead of detaching.
    former: Option<OwnedFd>,
}

/// The resource that keeps the program attached.
#[derive(Debug)]
pub enum Hold {
    /// The kernel detaches the program when the link's last descriptor is closed, even if the
    /// process is killed.
    Link { program: OwnedFd, link: OwnedFd },
    /// Used before Linux 5.9. The interface keeps the program until a process detaches it. The
    /// lock shows other processes that the program's owner is alive.
    Netlink { program: OwnedFd, lock: OwnerLock },
}

impl Hold {
    /// The program that this resource keeps attached.
    fn program(&self) -> &OwnedFd {
        match self {
            Hold::Link { program, .. } | Hold::Netlink { program, .. } => program,
        }
    }

    fn try_clone(&self) -> io::Result<Hold> {
        self.with_program(self.program().as_fd())
    }

    /// The same resource for another program.
    fn with_program(&self, program: BorrowedFd) -> io::Result<Hold> {
        let program = program.try_clone_to_owned()?;
        Ok(match self {
            Hold::Link { link, .. } => Hold::Link { program, link: link.try_clone()? },
            Hold::Netlink { lock, .. } => Hold::Netlink { program, lock: lock.try_clone()? },
        })
    }

    /// Replaces `current` with `program`. Fails if `current` is not attached.
    fn exchange(
        &self,
        index: InterfaceIndex,
        mode: XdpAttachMode,
        current: &OwnedFd,
        program: BorrowedFd,
    ) -> io::Result<()> {
        match self {
            Hold::Link { link, .. } => hook::exchange_in_link(index, link, current, program),
            Hold::Netlink { .. } => hook::exchange(index, mode, current, program),
        }
    }
}

impl Attachment {
    /// Attaches in exactly the given mode, native or generic.
    pub fn attach(
        interface: &Interface,
        program: BorrowedFd,
        mode: XdpAttachMode,
        steers: bool,
    ) -> Result<Attachment, AttachError> {
        let refused = |error, message| refused(interface, mode, steers, error, message);
        let flag = hook::mode_flag(mode);
        let attached = |hold| Attachment {
            interface: interface.clone(),
            mode,
            hold: Some(hold),
            former: None,
        };

        let link = || {
            let program = program.try_clone_to_owned()?;
            let link = xdp_attach::create_link(&program, interface.index, flag)?;
            Ok(attached(Hold::Link { program, link }))
        };
        let error = match { link }() {
            Ok(attachment) => return Ok(attachment),
            Err(error) => error,
        };
        if capabilities::is_denied(&error) || error.raw_os_error() == Some(libc::ENODEV) {
            return Err(refused(error, None));
        }
        // Creating a bpf_link returns only an errno; netlink also returns the kernel's text.
        // EINVAL means that the kernel has no bpf_links for XDP, or that the driver refuses the
        // program. Netlink is tried next: in the first case it attaches the program, in the
        // second it explains the error.
        let no_links = error.raw_os_error() == Some(libc::EINVAL);
        // The interface is locked before the program is attached, so that no other process takes
        // the program for a leftover and removes it.
        let Some(lock) = OwnerLock::acquire(interface.index) else {
            return Err(match occupant(interface)? {
                None if no_links => locked(interface, mode),
                occupant => {
                    Refusal { interface, mode, steers, error, kernel_message: None, occupant }
                        .explain()
                }
            });
        };
        let (result, output) = libbpf_print::capture(|| {
            let program = program.try_clone_to_owned()?;
            let flags = flag | libbpf::XDP_FLAGS_UPDATE_IF_NOEXIST;
            xdp_attach::attach(interface.index, program.as_fd(), flags, None)?;
            Ok(attached(Hold::Netlink { program, lock }))
        });
        match result {
            Ok(attachment) if no_links => Ok(attachment),
            // Netlink attached the program, so the cause of the link's error has gone meanwhile.
            // The program is detached again: this kernel has bpf_links, so a link should hold the
            // program. A link ends with its process.
            Ok(attachment) => {
                drop(attachment);
                Err(refused(error, None))
            }
            Err(netlink_error) if no_links => Err(refused(netlink_error, kernel_message(&output))),
            Err(_) => Err(refused(error, kernel_message(&output))),
        }
    }

    /// Makes an attachment from the hold of another process that offers to hand over. Until
    /// [`Attachment::take_ownership`], dropping this attachment leaves that process's program
    /// attached, and so does dropping its replacement ([`Attachment::replaced`]).
    pub fn provisional(
        interface: Interface,
        mode: XdpAttachMode,
        hold: Hold,
    ) -> io::Result<Attachment> {
        let former = Some(hold.program().try_clone()?);
        Ok(Attachment { interface, mode, hold: Some(hold), former })
    }

    /// Makes this process the owner. From now on, dropping the attachment detaches the program.
    pub fn take_ownership(&mut self) {
        self.former = None;
    }

    /// Replaces the program in one step. Fails if another process has replaced this attachment's
    /// program meanwhile. The returned attachment holds the new program. It is provisional if this
    /// attachment is provisional.
    pub fn replaced(&self, program: BorrowedFd, steers: bool) -> Result<Attachment, AttachError> {
        let replace = || -> io::Result<Hold> {
            let hold = self.hold.as_ref().ok_or(io::ErrorKind::NotConnected)?;
            let new = hold.with_program(program)?;
            hold.exchange(self.interface.index, self.mode, hold.program(), program)?;
            Ok(new)
        };
        let (result, output) = libbpf_print::capture(|| {
            let former = self.former.as_ref().map(OwnedFd::try_clone).transpose()?;
            Ok((replace()?, former))
        });
        let (interface, mode) = (&self.interface, self.mode);
        match result {
            Ok((hold, former)) => {
                Ok(Attachment { interface: interface.clone(), mode, hold: Some(hold), former })
            }
            Err(error) => Err(refused(interface, mode, steers, error, kernel_message(&output))),
        }
    }

    /// Native or generic.
    pub fn mode(&self) -> XdpAttachMode {
        self.mode
    }

    pub fn interface(&self) -> &Interface {
        &self.interface
    }

    /// Whether the kernel detaches the program when the process ends.
    pub fn detaches_on_exit(&self) -> bool {
        matches!(self.hold, Some(Hold::Link { .. }))
    }

    /// The resource that keeps the program attached; `None` once it is detached or released.
    pub fn hold(&self) -> Option<&Hold> {
        self.hold.as_ref()
    }

    /// Makes a handle that can attach the program again after another process has replaced it.
    /// `None` if the attachment is detached or released.
    pub fn reinstatement(&self) -> io::Result<Option<Reinstatement>> {
        let Some(hold) = &self.hold else { return Ok(None) };
        Ok(Some(Reinstatement {
            interface: self.interface.clone(),
            mode: self.mode,
            hold: hold.try_clone()?,
        }))
    }

    /// Drops the hold without detaching: another attachment holds the program now.
    pub fn release(&mut self) {
        (self.hold, self.former) = (None, None);
    }

    /// Detaches the program from the interface. Does not detach a program that another process
    /// has attached meanwhile.
    pub fn detach(&mut self) -> io::Result<()> {
        match &self.hold {
            None => {}
            // Closing the link's descriptor would detach the program as well, but later.
            Some(Hold::Link { link, .. }) => drop(xdp_attach::detach_link(link)),
            Some(Hold::Netlink { program, .. }) => {
                let (result, output) = libbpf_print::capture(|| {
                    hook::remove(self.interface.index, program, self.mode)
                });
                result.inspect_err(|_| tracing::debug!(output, "detaching through netlink"))?;
            }
        }
        self.hold = None;
        Ok(())
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        let interface = self.interface.name.clone();
        if let Some(former) = self.former.take() {
            // If the former program is attached, it was never replaced or is attached again. If
            // this attachment's program is not attached, a third process has taken over.
            let index = self.interface.index;
            let own = self.hold.as_ref().map(Hold::program);
            let is_own_attached =
                own.is_some_and(|own| hook::is_attached(index, own).unwrap_or(true));
            if hook::is_attached(index, &former).unwrap_or(false) || !is_own_attached {
                return;
            }
            match self.replaced(former.as_fd(), true) {
                Ok(mut reinstated) => reinstated.release(),
                Err(failed) => {
                    let reason = failed.into_error().with_causes().to_string();
                    tracing::warn!(
                        %interface,
                        reason,
                        "cannot attach the other process's program again"
                    );
                }
            }
        } else if let Err(error) = self.detach() {
            tracing::warn!(%interface, %error, "cannot detach the XDP program");
        }
    }
}

/// Attaches a program again that another process has replaced. This handle holds its own
/// descriptors, so it does not borrow the attachment.
#[derive(Debug)]
pub struct Reinstatement {
    interface: Interface,
    mode: XdpAttachMode,
    hold: Hold,
}

impl Reinstatement {
    /// Puts this handle's program in place of another program of this library. Does nothing if
    /// this handle's program is attached already.
    pub fn run(&self) -> io::Result<()> {
        let (result, output) = libbpf_print::capture(|| self.try_run());
        result.inspect_err(|_| tracing::debug!(output, "attaching a program again"))
    }

    fn try_run(&self) -> io::Result<()> {
        let (index, own) = (self.interface.index, self.hold.program());
        if hook::is_attached(index, own)? {
            return Ok(());
        }
        let occupant = Occupant::find(&self.interface).ok().flatten();
        let answer = match (occupant.and_then(Occupant::into_our_program), &self.hold) {
            (Some(other), hold) => hold.exchange(index, self.mode, &other, own.as_fd()),
            // Without CAP_SYS_ADMIN this process cannot open the other program. Only processes
            // that this process has sent the link to can have replaced the link's program.
            (None, Hold::Link { link, .. }) => xdp_attach::update_link(link, own, None),
            (None, Hold::Netlink { .. }) => Ok(()),
        };
        // The refused process may have attached this program again meanwhile.
        if hook::is_attached(index, own)? { Ok(()) } else { answer }
    }
}

/// Explains why an attach failed. If the errno means that the interface is taken, asks the
/// kernel which program is attached.
fn refused(
    interface: &Interface,
    mode: XdpAttachMode,
    steers: bool,
    error: io::Error,
    kernel_message: Option<String>,
) -> AttachError {
    let occupant = match error.raw_os_error() {
        Some(libc::EBUSY | libc::EEXIST) => occupant(interface),
        _ => Ok(None),
    };
    match occupant {
        Ok(occupant) => {
            Refusal { interface, mode, steers, error, kernel_message, occupant }.explain()
        }
        Err(error) => error,
    }
}

fn occupant(interface: &Interface) -> Result<Option<crate::report::ProgramIdentity>, AttachError> {
    let occupant = Occupant::find(interface).map_err(AttachError::Final)?;
    Ok(occupant.map(|occupant| occupant.identity))
}

/// Extracts the kernel's text from libbpf's warning.
fn kernel_message(output: &str) -> Option<String> {
    output.trim().rsplit_once("message: ").map(|(_, text)| text.into())
}
