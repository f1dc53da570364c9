//! The program on an interface: attaching, replacing, detaching.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use libbpf_sys as sys;

use crate::config::XdpAttachMode;
use crate::kernel::interface::Interface;
use crate::kernel::libbpf::{self, interface};
use crate::kernel::mark::Mark;
use crate::kernel::refusal::{AttachFailure, explain, marked};
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
            interface.check_free().map_err(AttachFailure::Final)?;
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
        let replace = || -> io::Result<Hold> {
            match &self.hold {
                None => Err(io::ErrorKind::NotConnected.into()),
                Some(Hold::Link(link)) => {
                    let held = Hold::Link(link.try_clone()?);
                    interface::update_link(link.as_fd(), program)?;
                    Ok(held)
                }
                Some(Hold::Netlink { program: old, mark }) => {
                    let copy = program.try_clone_to_owned()?;
                    let held = Hold::Netlink { program: copy, mark: mark.try_clone()? };
                    self.exchange(old, program)?;
                    Ok(held)
                }
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
                self.exchange(&other, own.as_fd())
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

    /// Puts a program in the place of another through netlink, if that is there.
    fn exchange(&self, there: &OwnedFd, program: BorrowedFd) -> io::Result<()> {
        let (index, flags) = (self.interface.index, mode_flag(self.mode));
        match interface::attach_xdp(index, program, flags, Some(there.as_fd())) {
            // Before Linux 5.7 the kernel cannot compare, so we do.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) && self.is_there(there)? => {
                interface::attach_xdp(index, program, flags, None)
            }
            answer => answer,
        }
    }

    fn is_there(&self, program: &OwnedFd) -> io::Result<bool> {
        is_attached(self.interface.index, program)
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        if let Some(former) = self.former.take() {
            // It was not replaced, or is back already.
            if self.is_there(&former).unwrap_or(false) {
                return;
            }
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
