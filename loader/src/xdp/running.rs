//! A loaded program that is attached to one interface.

use crate::config::XdpAttachMode;
use crate::object::LoadedXdp;
use crate::report::XdpError;
use crate::sys::bpf;
use crate::xdp::attachment::Attachment;

/// A loaded program and its attachment.
#[derive(Debug)]
pub struct RunningProgram {
    // Dropped first: the maps must outlive the program on the interface.
    pub attachment: Attachment,
    pub loaded: LoadedXdp,
    /// Whether the program redirects valid packets to CPU queues. If false, the program only
    /// drops junk.
    pub steers: bool,
}

impl RunningProgram {
    pub fn mode(&self) -> XdpAttachMode {
        self.attachment.mode()
    }

    /// The kernel's id of the program.
    pub fn id(&self) -> Result<u32, XdpError> {
        let info = bpf::program_info(&self.loaded.program);
        info.map(|info| info.id)
            .map_err(|error| XdpError::kernel("ask for the program's id", error))
    }
}
