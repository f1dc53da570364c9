//! A sample of a dropped packet.

use std::time::SystemTime;

use laminar_xdp_prebuilt::abi;

use crate::report::XdpReason;

/// A dropped packet that the program copied to user space
/// ([`XdpControls::drop_samples`](crate::XdpControls::drop_samples)).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DropSample {
    /// When the packet was dropped.
    pub time: SystemTime,
    /// Why the packet was dropped.
    pub reason: XdpReason,
    /// Length of the whole frame in bytes. `packet` may hold fewer.
    pub length: u32,
    /// The first bytes of the frame, from the Ethernet header on, as they were received. At
    /// most [`DropSample::MAX_PACKET`] bytes.
    pub packet: Vec<u8>,
}

impl DropSample {
    /// The most bytes of a packet that a sample holds.
    pub const MAX_PACKET: usize = abi::LAMINAR_SAMPLE_BYTES as usize;

    /// Makes a sample, for tests of code that handles samples. `length` is the length of the
    /// whole frame in bytes.
    ///
    /// ```
    /// use laminar_xdp::{DropSample, XdpReason};
    /// use std::time::SystemTime;
    ///
    /// let sample = DropSample::new(SystemTime::now(), XdpReason::DroppedShort, 60, [0; 60]);
    /// assert_eq!(sample.packet.len(), 60);
    /// ```
    pub fn new(
        time: SystemTime,
        reason: XdpReason,
        length: u32,
        packet: impl Into<Vec<u8>>,
    ) -> DropSample {
        DropSample { time, reason, length, packet: packet.into() }
    }
}
