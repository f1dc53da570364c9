//! What decides whether the program decides right: [`Model`] is the verdict table written
//! a second time, in safe Rust and straight from its specification; [`Packets`] makes what
//! it is tried on; `host` is the C program itself, compiled for this machine.

#[cfg(feature = "host")]
pub mod host;
mod model;
mod packets;

pub use model::{Answer, Limit, Lists, Model, Prefix, Reason, Verdict};
pub use packets::Packets;

/// A packet as people read it: its layers, and all of its bytes.
pub fn describe(frame: &[u8]) -> String {
    let layers = match etherparse::LaxSlicedPacket::from_ethernet(frame) {
        Ok(layers) => format!("{layers:#?}"),
        Err(error) => error.to_string(),
    };
    let lines = frame.chunks(16).enumerate().map(|(line, bytes)| {
        let bytes: Vec<_> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{:04x}  {}", line * 16, bytes.join(" "))
    });
    format!("{} bytes\n{}\n{layers}", frame.len(), lines.collect::<Vec<_>>().join("\n"))
}
