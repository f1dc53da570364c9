//! An XDP program on an interface: chooses an object, loads and attaches it, steers, and reads
//! its counters.

mod attach_error;
mod attachment;
mod candidates;
mod controls;
mod hook;
mod interface;
mod loader;
mod occupant;
mod owner_lock;
mod running;

pub(crate) use attachment::{Attachment, Hold, Reinstatement};
pub use controls::XdpControls;
pub(crate) use interface::Interface;
pub use loader::{XdpInterface, XdpLoader};
#[cfg(feature = "inspect")]
pub(crate) use occupant::Occupant;
pub(crate) use owner_lock::OwnerLock;
pub(crate) use running::RunningProgram;
