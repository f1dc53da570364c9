//! Everything that talks to the kernel. `unsafe` is in `libbpf` and `messages`
//! and nowhere else.

mod attach;
mod attempt;
mod controls;
mod ingest;
mod interface;
mod libbpf;
mod loader;
mod mark;
mod messages;
mod object;
mod parsed;
mod probe;
mod refusal;
mod rights;
mod shape;
mod sockets;
mod steering;

pub use controls::XdpControls;
pub use ingest::{Ingest, Offer, Receiver};
pub use loader::XdpLoader;
