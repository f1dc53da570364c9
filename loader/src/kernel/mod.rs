//! Everything that talks to the kernel. `unsafe` is in `libbpf` and `messages`
//! and nowhere else.

mod attach;
mod attempt;
mod ingest;
mod interface;
mod libbpf;
mod loader;
mod mark;
mod messages;
mod object;
mod probe;
mod refusal;
mod rights;
mod shape;
mod sockets;
mod steering;

pub use ingest::{Ingest, Offer, Receiver};
pub use loader::XdpLoader;
