//! XDP and sockets for LaminarDB: drops junk and steers each partition's UDP datagrams to
//! the CPU that owns it, in the driver, with prebuilt objects and no compiler.
//!
//! How the rooms fit: [`XdpConfig`] says what is wanted and [`LaminarHeader`]
//! what a datagram looks like. `artifact` finds the objects and checks that they
//! are intact, `kernel::probe` asks what this kernel can do, `select` says which
//! object that leaves and why not the others. `kernel::parsed` checks and configures it,
//! `kernel::object` loads it, `kernel::steering` fills its tables, `kernel::attach` puts
//! it on the interface; `kernel::attempt` goes through objects and modes in that way, and
//! [`XdpLoader`] holds what came of it and reads [`XdpStats`]. What may change meanwhile
//! is in [`XdpControls`]: ports, limits and lists of sources (`sources`), and samples of
//! what is dropped (`capture`).
//!
//! Whether XDP is there or not, [`Ingest`] has each partition's datagrams arrive at the
//! CPU that owns it: `kernel::sockets` opens a socket for each core and has them chosen
//! by partition, `kernel::ingest` puts XDP in front of them, moves partitions and hands
//! over to another process, and a [`Receiver`] is what a thread reads from.
//! `kernel::libbpf` and `kernel::messages` are the only unsafe code.
#![cfg_attr(doctest, doc = "")]
#![cfg_attr(doctest, doc = include_str!("../../README.md"))]
// Without a kernel to talk to, the rooms that lead to it lie idle.
#![cfg_attr(not(all(target_os = "linux", not(laminar_xdp_unsupported))), allow(dead_code))]

mod artifact;
mod capture;
mod config;
mod error;
mod header;
mod ingest;
#[cfg(all(target_os = "linux", not(laminar_xdp_unsupported)))]
mod kernel;
mod select;
mod sources;
mod stats;
#[cfg(not(all(target_os = "linux", not(laminar_xdp_unsupported))))]
mod unsupported;

pub use artifact::ArtifactError;
pub use capture::{DropSample, PcapngWriter};
pub use config::{XdpAttachMode, XdpConfig, XdpConfigBuilder};
pub use error::{PortHolder, ProgramIdentity, VerifierLog, XdpError};
pub use header::LaminarHeader;
pub use ingest::{Datagram, IngestConfig, IngestMode, IngestStats};
pub use ipnet::IpNet;
#[cfg(all(target_os = "linux", not(laminar_xdp_unsupported)))]
pub use kernel::{Ingest, Offer, Receiver, XdpControls, XdpLoader};
pub use laminar_xdp_prebuilt::{Feature, IntegrityError, ManifestError};
pub use select::{AttachRefusal, Candidate, FeatureAnswer, Outcome, Selection, Support};
pub use sources::{SourceLimit, SourceLists};
pub use stats::{XdpCounter, XdpReason, XdpStats};
#[cfg(all(unix, not(all(target_os = "linux", not(laminar_xdp_unsupported)))))]
pub use unsupported::Offer;
#[cfg(not(all(target_os = "linux", not(laminar_xdp_unsupported))))]
pub use unsupported::{Ingest, Receiver, XdpControls, XdpLoader};
