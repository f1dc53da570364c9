//! One program at work on one interface.

use crate::config::XdpAttachMode;
use crate::object::LoadedXdp;
use crate::report::XdpError;
use crate::sys::bpf;
use crate::xdp::attachment::Attachment;

/// A loaded program and its place on an interface.
#[derive(Debug)]
pub struct RunningProgram {
    // Dropped first: the maps must outlive the program on the interface.
    pub attachment: Attachment,
    pub loaded: LoadedXdp,
    /// Whether valid packets are redirected to CPU queues, or only junk is dropped.
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
