//! The same public API for platforms without XDP. Programs compile, and every call that opens or
//! loads something returns [`XdpError::UnsupportedPlatform`].
//!
//! No value of the types in this module can exist, so their methods cannot be called.

use std::convert::Infallible;
use std::error::Error;
use std::fmt;
use std::net::UdpSocket;
#[cfg(unix)]
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
#[cfg(unix)]
use std::os::unix::net::UnixStream;
use std::time::Duration;

use ipnet::IpNet;

use crate::config::{IngestConfig, SourceLimit, XdpAttachMode, XdpConfig};
use crate::report::{
    Datagram, DropSample, IngestMode, IngestStats, Received, Selection, XdpCounter, XdpError,
    XdpStats,
};

fn unsupported<T>() -> Result<T, XdpError> {
    Err(XdpError::UnsupportedPlatform { platform: std::env::consts::OS })
}

/// Declares types that no value can have, and their methods. A method's receiver is written with
/// its type (`self: &Self`), because one macro rule then covers all kinds of receivers.
macro_rules! impossible {
    ($(
        $(#[$of_type:meta])*
        $type:ident {
            $(
                $(#[$of_method:meta])*
                fn $method:ident $(<$lifetime:lifetime>)? (
                    $self:ident: $receiver:ty $(, $argument:ident: $argument_type:ty)*
                ) $(-> $result:ty)?;
            )*
        }
    )*) => {$(
        $(#[$of_type])*
        ///
        /// This platform has no XDP, so no value of this type exists.
        #[derive(Debug)]
        pub struct $type {
            never: Infallible,
        }

        impl $type {
            $(
                #[doc = concat!("Cannot be called: no `", stringify!($type), "` exists on this platform.")]
                $(#[$of_method])*
                #[allow(unused_variables)]
                pub fn $method $(<$lifetime>)? (
                    $self: $receiver $(, $argument: $argument_type)*
                ) $(-> $result)? {
                    match $self.never {}
                }
            )*
        }
    )*};
}

impossible! {
    /// A loaded program that is attached to its interfaces.
    #[must_use = "dropping the loader detaches the program"]
    XdpLoader {
        fn stats(self: &Self) -> Result<XdpStats, XdpError>;
        fn counters(self: &Self) -> Result<Vec<XdpCounter>, XdpError>;
        fn controls(self: &Self) -> &XdpControls;
        fn update_cpu_steering(self: &Self, partition: u32, cpu: u32) -> Result<(), XdpError>;
        fn detach(self: Self) -> Result<(), XdpError>;
        fn interfaces(self: &Self) -> &[XdpInterface];
        fn selection(self: &Self) -> &Selection;
        fn mode(self: &Self) -> XdpAttachMode;
        fn steers(self: &Self) -> bool;
        fn detaches_on_exit(self: &Self) -> bool;
        fn program_id(self: &Self) -> Result<u32, XdpError>;
        fn partitions(self: &Self) -> u32;
        fn cpus(self: &Self) -> &[u32];
    }

    /// One interface that a program is attached to.
    XdpInterface {
        fn name(self: &Self) -> &str;
        fn mode(self: &Self) -> XdpAttachMode;
        fn steers(self: &Self) -> bool;
        fn selection(self: &Self) -> &Selection;
        fn detaches_on_exit(self: &Self) -> bool;
        fn program_id(self: &Self) -> Result<u32, XdpError>;
    }

    /// Changes the filters of the running program, and reads samples of the packets that it
    /// drops.
    XdpControls {
        fn ports(self: &Self) -> Result<Vec<u16>, XdpError>;
        fn set_ports(self: &Self, ports: &[u16]) -> Result<(), XdpError>;
        fn add_port(self: &Self, port: u16) -> Result<(), XdpError>;
        fn remove_port(self: &Self, port: u16) -> Result<(), XdpError>;
        fn set_source_limit(self: &Self, limit: SourceLimit) -> Result<(), XdpError>;
        fn deny(self: &Self, prefix: IpNet) -> Result<(), XdpError>;
        fn remove_deny(self: &Self, prefix: IpNet) -> Result<(), XdpError>;
        fn allow(self: &Self, prefix: IpNet) -> Result<(), XdpError>;
        fn remove_allow(self: &Self, prefix: IpNet) -> Result<(), XdpError>;
        fn set_drop_samples(self: &Self, one_in: u32) -> Result<(), XdpError>;
        fn drop_samples(self: &Self, timeout: Duration) -> Result<Vec<DropSample>, XdpError>;
    }

    /// Delivers the datagrams of each partition to the CPU that owns it.
    #[must_use = "dropping the ingest closes its sockets and detaches XDP"]
    Ingest {
        fn receiver(self: &Self, cpu: u32) -> Result<Receiver, XdpError>;
        fn mode(self: &Self) -> &IngestMode;
        fn interfaces(self: &Self) -> &[XdpInterface];
        fn selection(self: &Self) -> Option<&Selection>;
        fn classic_bpf_reason(self: &Self) -> Option<&str>;
        fn receive_buffer(self: &Self) -> Result<u32, XdpError>;
        fn port(self: &Self) -> Result<u16, XdpError>;
        fn stats(self: &Self) -> Result<IngestStats, XdpError>;
        fn counters(self: &Self) -> Result<Vec<XdpCounter>, XdpError>;
        fn controls(self: &Self) -> Option<&XdpControls>;
        fn partitions(self: &Self) -> u32;
        fn cpus(self: &Self) -> &[u32];
        fn owner(self: &Self, partition: u32) -> Option<u32>;
        fn move_partition(self: &Self, partition: u32, cpu: u32) -> Result<(), XdpError>;
        #[cfg(unix)]
        fn offer<'a>(self: &Self, successor: &'a UnixStream) -> Result<Offer<'a>, XdpError>;
        #[cfg(unix)]
        fn hand_over(self: Self, offer: Offer<'_>) -> Result<(), HandOverError>;
    }

    /// Receives the datagrams of the partitions that one CPU owns.
    Receiver {
        fn cpu(self: &Self) -> u32;
        fn socket(self: &Self) -> &UdpSocket;
        fn pin_thread(self: &Self) -> Result<(), XdpError>;
        fn receive(
            self: &mut Self,
            timeout: Duration,
            handle: impl FnMut(Datagram<'_>)
        ) -> Result<Received, XdpError>;
        fn drain(self: &mut Self, handle: impl FnMut(Datagram<'_>)) -> usize;
    }
}

impl XdpLoader {
    /// Returns an error on this platform.
    ///
    /// # Errors
    /// [`XdpError::UnsupportedPlatform`].
    pub fn load_and_attach(_config: &XdpConfig, _cpus: &[u32]) -> Result<XdpLoader, XdpError> {
        unsupported()
    }
}

impl Ingest {
    /// Returns an error on this platform.
    ///
    /// # Errors
    /// [`XdpError::UnsupportedPlatform`].
    pub fn open(_config: &IngestConfig, _xdp_config: &XdpConfig) -> Result<Ingest, XdpError> {
        unsupported()
    }

    /// Returns an error on this platform.
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
}

impl Receiver {
    /// The most datagrams that one call of `receive` reads from the socket.
    pub const BATCH: usize = 32;
    /// The most datagrams that a receiver holds back while their partitions move to its CPU.
    pub const MAX_HELD: usize = 65_536;
}

#[cfg(unix)]
impl AsFd for Receiver {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self.never {}
    }
}

#[cfg(unix)]
impl AsRawFd for Receiver {
    fn as_raw_fd(&self) -> RawFd {
        match self.never {}
    }
}

/// A process that is ready to take over.
///
/// This platform has no XDP, so no value of this type exists.
#[cfg(unix)]
#[must_use = "dropping the offer refuses the other process"]
#[derive(Debug)]
pub struct Offer<'a> {
    _never: Infallible,
    _stream: std::marker::PhantomData<&'a UnixStream>,
}

#[cfg(unix)]
impl Offer<'_> {
    /// Sets how long `Ingest::hand_over` waits for the other process's answer.
    pub fn patience(self, _: std::time::Duration) -> Self {
        match self._never {}
    }
}

/// A hand-over that failed. It holds the ingest, which continues to work.
#[derive(Debug)]
#[non_exhaustive]
pub struct HandOverError {
    /// The ingest. Take its receivers again to continue.
    pub ingest: Box<Ingest>,
    /// Why the hand-over failed.
    pub error: XdpError,
}

impl fmt::Display for HandOverError {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ingest.never {}
    }
}

impl Error for HandOverError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.error)
    }
}
