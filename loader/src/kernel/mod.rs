//! Everything that talks to the kernel. `unsafe` is in `libbpf` and `messages`
//! and nowhere else.

mod attach;
mod attempt;
mod libbpf;
mod loader;
mod messages;
mod object;
mod probe;
mod rights;
mod steering;

pub use loader::XdpLoader;
