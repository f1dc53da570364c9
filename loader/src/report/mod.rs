//! The values that the library returns: errors, selections, counters, samples and datagrams.
//! Nothing here asks the kernel.

mod causes;
mod error;
mod identity;
mod ingest;
mod pcapng;
mod reason;
mod sample;
mod selection;
mod stats;
mod verifier_log;

pub use error::XdpError;
pub use identity::{PortHolder, ProgramIdentity};
pub use ingest::{Datagram, IngestMode, IngestStats, Received};
pub use pcapng::PcapngWriter;
pub use reason::{UnknownReason, XdpReason, XdpVerdict};
pub use sample::DropSample;
pub use selection::{AttachRefusal, Candidate, FeatureAnswer, Outcome, Selection, Support};
#[cfg(all(target_os = "linux", not(laminar_xdp_unsupported)))]
pub(crate) use stats::Counters;
pub use stats::{XdpCounter, XdpStats};
pub use verifier_log::VerifierLog;
