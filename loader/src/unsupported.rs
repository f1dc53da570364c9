//! The same face where there is no XDP: everything compiles, every load answers
//! "not supported on this platform".

use crate::config::{XdpAttachMode, XdpConfig};
use crate::error::XdpError;
use crate::select::Selection;
use crate::stats::XdpStats;

/// The program at work on one interface, which cannot exist on this platform.
#[derive(Debug)]
pub struct XdpLoader {
    never: std::convert::Infallible,
}

impl XdpLoader {
    /// Always fails.
    ///
    /// # Errors
    /// [`XdpError::UnsupportedPlatform`].
    pub fn load_and_attach(_config: &XdpConfig, _cores: &[u32]) -> Result<XdpLoader, XdpError> {
        Err(XdpError::UnsupportedPlatform { platform: std::env::consts::OS })
    }

    /// Never called.
    pub fn stats(&self) -> Result<XdpStats, XdpError> {
        match self.never {}
    }

    /// Never called.
    pub fn update_cpu_steering(&self, _partition: u32, _cpu: u32) -> Result<(), XdpError> {
        match self.never {}
    }

    /// Never called.
    pub fn detach(self) -> Result<(), XdpError> {
        match self.never {}
    }

    /// Never called.
    pub fn selection(&self) -> &Selection {
        match self.never {}
    }

    /// Never called.
    pub fn mode(&self) -> XdpAttachMode {
        match self.never {}
    }

    /// Never called.
    pub fn steers(&self) -> bool {
        match self.never {}
    }

    /// Never called.
    pub fn ends_with_process(&self) -> bool {
        match self.never {}
    }

    /// Never called.
    pub fn partitions(&self) -> u32 {
        match self.never {}
    }

    /// Never called.
    pub fn cores(&self) -> &[u32] {
        match self.never {}
    }

    /// Never called.
    pub fn program_id(&self) -> Result<u32, XdpError> {
        match self.never {}
    }
}
