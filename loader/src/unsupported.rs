//! The same face where there is no XDP: everything compiles, every load answers
//! "not supported on this platform".

use std::net::UdpSocket;
#[cfg(unix)]
use std::os::fd::BorrowedFd;
#[cfg(unix)]
use std::os::unix::net::UnixStream;
use std::time::Duration;

use ipnet::IpNet;

use crate::capture::DropSample;
use crate::config::{XdpAttachMode, XdpConfig};
use crate::error::XdpError;
use crate::ingest::{Datagram, IngestConfig, IngestMode, IngestStats};
use crate::select::Selection;
use crate::sources::SourceLimit;
use crate::stats::{XdpCounter, XdpStats};

fn unsupported<T>() -> Result<T, XdpError> {
    Err(XdpError::UnsupportedPlatform { platform: std::env::consts::OS })
}

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
        unsupported()
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

    /// Never called.
    pub fn counters(&self) -> Result<Vec<XdpCounter>, XdpError> {
        match self.never {}
    }

    /// Never called.
    pub fn controls(&self) -> &XdpControls {
        match self.never {}
    }
}

/// What may be changed while a program runs, which cannot be on this platform.
#[derive(Debug)]
pub struct XdpControls {
    never: std::convert::Infallible,
}

impl XdpControls {
    /// Never called.
    pub fn ports(&self) -> Result<Vec<u16>, XdpError> {
        match self.never {}
    }

    /// Never called.
    pub fn set_ports(&self, _ports: &[u16]) -> Result<(), XdpError> {
        match self.never {}
    }

    /// Never called.
    pub fn set_source_limit(&self, _limit: SourceLimit) -> Result<(), XdpError> {
        match self.never {}
    }

    /// Never called.
    pub fn deny(&self, _prefix: IpNet) -> Result<(), XdpError> {
        match self.never {}
    }

    /// Never called.
    pub fn stop_denying(&self, _prefix: IpNet) -> Result<(), XdpError> {
        match self.never {}
    }

    /// Never called.
    pub fn allow(&self, _prefix: IpNet) -> Result<(), XdpError> {
        match self.never {}
    }

    /// Never called.
    pub fn stop_allowing(&self, _prefix: IpNet) -> Result<(), XdpError> {
        match self.never {}
    }

    /// Never called.
    pub fn set_drop_samples(&self, _one_in: u32) -> Result<(), XdpError> {
        match self.never {}
    }

    /// Never called.
    pub fn drop_samples(&self, _timeout: Duration) -> Result<Vec<DropSample>, XdpError> {
        match self.never {}
    }
}

/// Thread-per-core ingest, which cannot exist on this platform.
#[derive(Debug)]
pub struct Ingest {
    never: std::convert::Infallible,
}

impl Ingest {
    /// Always fails.
    ///
    /// # Errors
    /// [`XdpError::UnsupportedPlatform`].
    pub fn open(_config: &IngestConfig, _xdp_config: &XdpConfig) -> Result<Ingest, XdpError> {
        unsupported()
    }

    /// Never called.
    pub fn receiver(&self, _core: u32) -> Result<Receiver, XdpError> {
        match self.never {}
    }

    /// Never called.
    pub fn mode(&self) -> &IngestMode {
        match self.never {}
    }

    /// Never called.
    pub fn selection(&self) -> Option<&Selection> {
        match self.never {}
    }

    /// Never called.
    pub fn classic_reason(&self) -> Option<&str> {
        match self.never {}
    }

    /// Never called.
    pub fn receive_buffer(&self) -> Result<u32, XdpError> {
        match self.never {}
    }

    /// Never called.
    pub fn stats(&self) -> Result<IngestStats, XdpError> {
        match self.never {}
    }

    /// Never called.
    pub fn counters(&self) -> Result<Vec<XdpCounter>, XdpError> {
        match self.never {}
    }

    /// Never called.
    pub fn controls(&self) -> Option<&XdpControls> {
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
    pub fn owner(&self, _partition: u32) -> Option<u32> {
        match self.never {}
    }

    /// Always fails.
    ///
    /// # Errors
    /// [`XdpError::UnsupportedPlatform`].
    #[cfg(unix)]
    pub fn take_over(
        _config: &IngestConfig,
        _xdp_config: &XdpConfig,
        _running: &UnixStream,
    ) -> Result<Ingest, XdpError> {
        unsupported()
    }

    /// Never called.
    #[cfg(unix)]
    pub fn offer<'a>(&self, _successor: &'a UnixStream) -> Result<Offer<'a>, XdpError> {
        match self.never {}
    }

    /// Never called.
    #[cfg(unix)]
    pub fn hand_over(&mut self, _offer: Offer<'_>) -> Result<(), XdpError> {
        match self.never {}
    }

    /// Never called.
    pub fn move_partition(&self, _partition: u32, _core: u32) -> Result<(), XdpError> {
        match self.never {}
    }
}

/// A process that is ready to take over, which cannot be on this platform.
#[cfg(unix)]
#[derive(Debug)]
pub struct Offer<'a> {
    never: std::convert::Infallible,
    stream: std::marker::PhantomData<&'a UnixStream>,
}

/// Receives the datagrams of one CPU's partitions, which cannot exist on this platform.
#[derive(Debug)]
pub struct Receiver {
    never: std::convert::Infallible,
}

impl Receiver {
    /// The most datagrams that one call takes from the socket.
    pub const BATCH: usize = 32;
    /// The most datagrams that are held back while a partition moves.
    pub const MOST_HELD: usize = 65_536;

    /// Never called.
    pub fn handle_left(&mut self, _handle: impl FnMut(Datagram<'_>)) -> usize {
        match self.never {}
    }

    /// Never called.
    pub fn core(&self) -> u32 {
        match self.never {}
    }

    /// Never called.
    pub fn socket(&self) -> &UdpSocket {
        match self.never {}
    }

    /// Never called.
    #[cfg(unix)]
    pub fn attention(&self) -> BorrowedFd<'_> {
        match self.never {}
    }

    /// Never called.
    pub fn pin_thread(&self) -> Result<(), XdpError> {
        match self.never {}
    }

    /// Never called.
    pub fn receive(
        &mut self,
        _timeout: Duration,
        _handle: impl FnMut(Datagram<'_>),
    ) -> Result<usize, XdpError> {
        match self.never {}
    }
}
