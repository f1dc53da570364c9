//! A program that is attached to an interface already.

use std::os::fd::OwnedFd;

use laminar_xdp_prebuilt::abi;

use crate::config::XdpAttachMode;
use crate::object::layout;
use crate::report::{ProgramIdentity, XdpError};
use crate::sys::{bpf, libbpf_print, xdp_attach};
use crate::xdp::hook;
use crate::xdp::interface::Interface;
use crate::xdp::owner_lock::OwnerLock;

/// A program on an interface.
pub struct Occupant {
    #[cfg_attr(not(feature = "inspect"), expect(dead_code, reason = "only tools ask for it"))]
    pub mode: XdpAttachMode,
    pub identity: ProgramIdentity,
    /// `None` if this process cannot open the program. Opening it needs CAP_SYS_ADMIN.
    program: Option<OwnedFd>,
}

impl Occupant {
    /// The first program on the interface; `None` if there is none.
    pub fn find(interface: &Interface) -> Result<Option<Occupant>, XdpError> {
        Ok(Self::find_all(interface)?.into_iter().next())
    }

    /// The programs on the interface. The kernel allows one program in each mode.
    pub fn find_all(interface: &Interface) -> Result<Vec<Occupant>, XdpError> {
        let attached = xdp_attach::attached_programs(interface.index).map_err(|error| {
            let action = format!("ask which XDP program {} carries", interface.name);
            XdpError::kernel(action, error)
        })?;
        Ok(attached.into_iter().map(|(mode, id)| Self::with_id(mode, id)).collect())
    }

    fn with_id(mode: XdpAttachMode, id: u32) -> Occupant {
        let program = bpf::program_by_id(id).ok();
        let info = program.as_ref().and_then(|program| bpf::program_info(program).ok());
        let (name, tag) = info.map(|info| (info.name, info.tag)).unzip();
        let tag = tag.map(|tag| tag.iter().map(|byte| format!("{byte:02x}")).collect());
        Occupant { mode, identity: ProgramIdentity { id, name, tag }, program }
    }

    /// The program's descriptor. `None` if the program's name is not one of this library's, or if
    /// this process cannot open the program.
    pub fn into_our_program(self) -> Option<OwnedFd> {
        let ours = self.has_our_name();
        self.program.filter(|_| ours)
    }

    fn has_our_name(&self) -> bool {
        let ours = [abi::LAMINAR_PROGRAM, abi::LAMINAR_PROGRAM_GUARDED];
        ours.into_iter().any(|name| self.identity.name.as_deref() == name.to_str().ok())
    }

    /// Whether this library attached the program, in this or another process. This library
    /// fills the steering table before it attaches; other tools leave the table empty.
    fn is_configured_by_us(&self, program: &OwnedFd) -> bool {
        let maps = bpf::program_maps(program).unwrap_or_default();
        let mut tables = maps
            .into_iter()
            .filter_map(|map| layout::foreign_map(abi::LAMINAR_MAP_STEERING, map).ok());
        let has_owner = |entry: Vec<u8>| entry.iter().any(|byte| *byte != 0);
        self.has_our_name() && tables.any(|table| table.lookup(0).is_ok_and(has_owner))
    }
}

/// Fails if a program is on the interface. Exception: if this library attached that program in a
/// process that has ended, removes the program. Without a bpf_link a program outlives its
/// process.
pub fn make_free(interface: &Interface) -> Result<(), XdpError> {
    let Some(occupant) = Occupant::find(interface)? else { return Ok(()) };
    // A living owner holds the lock, so acquiring the lock proves that the owner has ended. This
    // process keeps the lock until the program is removed.
    let lock = OwnerLock::acquire(interface.index);
    if lock.is_some()
        && let Some(program) = &occupant.program
        && occupant.is_configured_by_us(program)
        && remove_in_any_mode(interface, program)
    {
        let (interface, program) = (&interface.name, &occupant.identity);
        tracing::warn!(%interface, %program, "removed the program of an earlier process");
        return Ok(());
    }
    Err(XdpError::Busy { interface: interface.name.clone(), holder: occupant.identity })
}

/// Removes the program, and returns whether it is removed. A program that a bpf_link holds
/// cannot be removed.
fn remove_in_any_mode(interface: &Interface, program: &OwnedFd) -> bool {
    let modes = [XdpAttachMode::Native, XdpAttachMode::Generic];
    // Before Linux 5.7 (from the kernel's history), detaching in the wrong mode succeeds without
    // effect. Therefore this checks afterwards that the program is gone from the interface.
    let is_removed = |mode| {
        hook::remove(interface.index, program, mode).is_ok()
            && hook::is_attached(interface.index, program).is_ok_and(|attached| !attached)
    };
    libbpf_print::capture(|| modes.into_iter().any(is_removed)).0
}
