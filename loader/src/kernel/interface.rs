//! A network interface, and what is in the way on it.

use std::ffi::{CString, c_int};
use std::fs;
use std::os::fd::OwnedFd;

use laminar_xdp_prebuilt::abi;

use crate::config::XdpAttachMode;
use crate::error::{ProgramIdentity, XdpError};
use crate::kernel::attach::{is_attached, take_off};
use crate::kernel::libbpf::{self, interface};
use crate::kernel::mark::Mark;
use crate::kernel::{messages, shape};

/// An interface of the network namespace that the thread was in.
#[derive(Debug, Clone)]
pub struct Interface {
    pub name: String,
    pub index: c_int,
    /// The driver's name, if it tells one.
    pub driver: Option<String>,
}

impl Interface {
    pub fn find(name: &str) -> Result<Interface, XdpError> {
        let not_found = || XdpError::InterfaceNotFound { interface: name.into() };
        let c_name = CString::new(name).map_err(|_| not_found())?;
        let index = match interface::index(&c_name) {
            Ok(index) => index,
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => return Err(not_found()),
            Err(reason) => {
                return Err(XdpError::Kernel { action: format!("look for {name}"), reason });
            }
        };
        Ok(Interface { name: name.into(), index, driver: interface::driver(&c_name) })
    }

    /// Whether receive packet steering hands its packets on to other CPUs, as far as
    /// /sys shows this network namespace.
    pub fn hands_on_packets(&self) -> bool {
        let folder = format!("/sys/class/net/{}", self.name);
        let index = fs::read_to_string(format!("{folder}/ifindex")).unwrap_or_default();
        if index.trim() != self.index.to_string() {
            return false; // another namespace's
        }
        let queues = fs::read_dir(format!("{folder}/queues")).into_iter().flatten().flatten();
        let masks = queues.filter_map(|q| fs::read_to_string(q.path().join("rps_cpus")).ok());
        masks.into_iter().any(|mask| mask.trim().chars().any(|c| c != '0' && c != ','))
    }

    /// Fails if a program is attached, whoever's it is. One that a process of ours left
    /// is taken off first: without a link it stays when a process is killed.
    pub fn make_free(&self) -> Result<(), XdpError> {
        let Some((holder, program)) = self.holder()? else { return Ok(()) };
        // Held until the program is off: its owner would have it.
        let mark = Mark::set(self.index);
        match program {
            Some(program)
                if mark.is_some()
                    && is_left_behind(&holder, &program)
                    && self.take_off(&program) =>
            {
                let interface = &self.name;
                tracing::warn!(%interface, %holder, "took off what an earlier process left");
                Ok(())
            }
            _ => Err(XdpError::Busy { interface: self.name.clone(), holder }),
        }
    }

    /// Fails if a program is attached.
    pub fn check_free(&self) -> Result<(), XdpError> {
        let busy = |(holder, _)| XdpError::Busy { interface: self.name.clone(), holder };
        self.holder()?.map_or(Ok(()), |holder| Err(busy(holder)))
    }

    /// A program of ours that is attached here, whoever attached it.
    pub fn ours(&self) -> Option<OwnedFd> {
        let (holder, program) = self.holder().ok()??;
        program.filter(|_| has_our_name(&holder))
    }

    /// What is attached, and a descriptor of it if this process may have one.
    fn holder(&self) -> Result<Option<(ProgramIdentity, Option<OwnedFd>)>, XdpError> {
        let attached = interface::attached_program(self.index);
        let id = attached.map_err(|reason| XdpError::Kernel {
            action: format!("ask which XDP program {} carries", self.name),
            reason,
        })?;
        let Some(id) = id else { return Ok(None) };
        let program = libbpf::program_by_id(id).ok();
        let info = program.as_ref().and_then(|program| libbpf::program_info(program).ok());
        let (name, tag) = info.map(|(_, name, tag)| (name, tag)).unzip();
        let tag = tag.map(|tag| tag.iter().map(|byte| format!("{byte:02x}")).collect());
        Ok(Some((ProgramIdentity { id, name, tag }, program)))
    }

    /// Whether a program could be taken off; one that a link holds cannot.
    fn take_off(&self, program: &OwnedFd) -> bool {
        let modes = [XdpAttachMode::Native, XdpAttachMode::Generic];
        // Before Linux 5.7 (by its history) the wrong mode is no error.
        let is_off = |mode| {
            take_off(self.index, program, mode).is_ok()
                && is_attached(self.index, program).is_ok_and(|attached| !attached)
        };
        messages::capture(|| modes.into_iter().any(is_off)).0
    }
}

fn has_our_name(holder: &ProgramIdentity) -> bool {
    let ours = [abi::LAMINAR_PROGRAM, abi::LAMINAR_PROGRAM_GUARDED];
    ours.into_iter().any(|name| holder.name.as_deref() == name.to_str().ok())
}

/// Whether a process of ours attached it: that fills the table of owners, which other
/// tools leave empty.
fn is_left_behind(holder: &ProgramIdentity, program: &OwnedFd) -> bool {
    let maps = libbpf::program_maps(program).unwrap_or_default();
    let mut tables =
        maps.into_iter().filter_map(|map| shape::map(abi::LAMINAR_MAP_STEERING, map).ok());
    has_our_name(holder)
        && tables.any(|table| table.lookup(0).is_ok_and(|owner| owner.iter().any(|b| *b != 0)))
}
