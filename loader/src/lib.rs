#![doc = include_str!("../README.md")]
#![deny(unsafe_code)]
// On a platform without XDP, functions that only the missing modules call are dead code.
#![cfg_attr(not(all(target_os = "linux", not(laminar_xdp_unsupported))), allow(dead_code))]

mod artifact;
mod config;
mod header;
mod ids;
mod report;

#[cfg(all(target_os = "linux", not(laminar_xdp_unsupported)))]
mod ingest;
#[cfg(feature = "inspect")]
pub mod inspect;
#[cfg(all(target_os = "linux", not(laminar_xdp_unsupported)))]
mod object;
#[cfg(all(target_os = "linux", not(laminar_xdp_unsupported)))]
mod partitions;
#[cfg(all(target_os = "linux", not(laminar_xdp_unsupported)))]
mod sync;
#[cfg(all(target_os = "linux", not(laminar_xdp_unsupported)))]
mod sys;
#[cfg(not(all(target_os = "linux", not(laminar_xdp_unsupported))))]
mod unsupported;
#[cfg(all(target_os = "linux", not(laminar_xdp_unsupported)))]
mod xdp;

pub use artifact::ArtifactError;
pub use config::{
    ConfigError, IngestConfig, SourceLimit, SourceLists, XdpAttachMode, XdpConfig, XdpConfigBuilder,
};
pub use header::LaminarHeader;
#[cfg(all(target_os = "linux", not(laminar_xdp_unsupported)))]
pub use ingest::{HandOverError, Ingest, Offer, Receiver};
pub use ipnet::IpNet;
pub use laminar_xdp_prebuilt::{ByteOrder, Feature, IntegrityError, Layer, ManifestError};
pub use report::{
    AttachRefusal, Candidate, Datagram, DropSample, FeatureAnswer, IngestMode, IngestStats,
    Outcome, PcapngWriter, PortHolder, ProgramIdentity, Received, Selection, Support,
    UnknownReason, VerifierLog, XdpCounter, XdpError, XdpReason, XdpStats, XdpVerdict,
};
#[cfg(all(unix, not(all(target_os = "linux", not(laminar_xdp_unsupported)))))]
pub use unsupported::Offer;
#[cfg(not(all(target_os = "linux", not(laminar_xdp_unsupported))))]
pub use unsupported::{HandOverError, Ingest, Receiver, XdpControls, XdpInterface, XdpLoader};
#[cfg(all(target_os = "linux", not(laminar_xdp_unsupported)))]
pub use xdp::{XdpControls, XdpInterface, XdpLoader};
