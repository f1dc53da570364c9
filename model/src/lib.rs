//! A second implementation of the verdict table, for tests of the BPF program.
//!
//! [`Model`] implements the specification of the table in safe Rust. The module `host` is the
//! BPF program, compiled for this machine. [`Packets`] generates packets. A test compares the
//! answers of the model and the program to each packet.

#[cfg(feature = "host")]
pub mod host;
mod model;
mod packets;

pub use model::{Answer, Limit, Lists, Model, Prefix, Reason, Verdict};
pub use packets::Packets;

/// Renders a packet for an error message: its bytes and its layers.
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
