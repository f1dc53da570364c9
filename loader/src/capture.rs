//! Dropped packets to look at, and a file of them that Wireshark opens.

use std::io::{self, Write};
use std::time::{SystemTime, UNIX_EPOCH};

use laminar_xdp_prebuilt::abi;

use crate::stats::XdpReason;

/// A dropped packet that the program showed ([`crate::XdpControls::drop_samples`]).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DropSample {
    /// When it was dropped.
    pub time: SystemTime,
    /// Why it was dropped.
    pub reason: XdpReason,
    /// Bytes of the whole frame, wherever they lie.
    pub length: u32,
    /// The frame's first bytes, from the Ethernet header on: at most
    /// [`DropSample::MAX_PACKET`].
    pub packet: Vec<u8>,
}

impl DropSample {
    /// The most bytes that a sample has of a packet.
    pub const MAX_PACKET: usize = abi::LAMINAR_SAMPLE_BYTES as usize;
}

/// Writes samples as pcapng (draft-ietf-opsawg-pcapng), little-endian: one section with
/// one interface, and a packet block for each sample with its reason as comment.
///
/// ```no_run
/// # use laminar_xdp::{PcapngWriter, XdpLoader};
/// # use std::time::Duration;
/// # fn f(loader: &XdpLoader) -> Result<(), Box<dyn std::error::Error>> {
/// let file = std::fs::File::create("drops.pcapng")?;
/// let mut capture = PcapngWriter::new(file, "eth0")?;
/// for sample in loader.controls().drop_samples(Duration::from_secs(1))? {
///     capture.write(&sample)?;
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct PcapngWriter<W> {
    writer: W,
}

// Block types, option codes and the link type by their numbers in the specification.
const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const INTERFACE_DESCRIPTION: u32 = 1;
const ENHANCED_PACKET: u32 = 6;
const BYTE_ORDER_MAGIC: u32 = 0x1a2b_3c4d;
const LINKTYPE_ETHERNET: u16 = 1;
const OPT_END: u16 = 0;
const OPT_COMMENT: u16 = 1;
const SHB_USERAPPL: u16 = 4;
const IF_NAME: u16 = 2;
const IF_TSRESOL: u16 = 9;

/// Timestamps are in nanoseconds: ten to the power of minus this.
const NANOSECONDS: u8 = 9;

impl<W: Write> PcapngWriter<W> {
    /// Begins a file with what stands before the packets.
    ///
    /// # Errors
    /// Those of the writer; [`io::ErrorKind::InvalidInput`] for a name of 65,536 bytes or
    /// more.
    pub fn new(writer: W, interface: &str) -> io::Result<Self> {
        if interface.len() > usize::from(u16::MAX) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut capture = Self { writer };
        let version: [u16; 2] = [1, 0];
        let section_length_is_unknown = -1i64;
        let mut section = BYTE_ORDER_MAGIC.to_le_bytes().to_vec();
        section.extend(version.into_iter().flat_map(u16::to_le_bytes));
        section.extend(section_length_is_unknown.to_le_bytes());
        option(&mut section, SHB_USERAPPL, b"laminar-xdp");
        capture.block(SECTION_HEADER, section)?;

        let reserved = 0;
        let mut description = [LINKTYPE_ETHERNET, reserved].map(u16::to_le_bytes).concat();
        description.extend((DropSample::MAX_PACKET as u32).to_le_bytes());
        option(&mut description, IF_NAME, interface.as_bytes());
        option(&mut description, IF_TSRESOL, &[NANOSECONDS]);
        capture.block(INTERFACE_DESCRIPTION, description)?;
        Ok(capture)
    }

    /// Adds a sample.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn write(&mut self, sample: &DropSample) -> io::Result<()> {
        let since_epoch = sample.time.duration_since(UNIX_EPOCH).unwrap_or_default();
        // Enough until the year 2554.
        let time = u64::try_from(since_epoch.as_nanos()).unwrap_or(u64::MAX);
        let packet = &sample.packet[..sample.packet.len().min(DropSample::MAX_PACKET)];
        let (interface, captured) = (0, packet.len() as u32);
        let fields = [interface, (time >> 32) as u32, time as u32, captured, sample.length];
        let mut block = fields.map(u32::to_le_bytes).concat();
        block.extend(packet);
        pad(&mut block);
        option(&mut block, OPT_COMMENT, sample.reason.name().as_bytes());
        self.block(ENHANCED_PACKET, block)
    }

    /// Gives the writer back.
    pub fn into_inner(self) -> W {
        self.writer
    }

    /// Writes a block whose options, if it has any, are not closed yet.
    fn block(&mut self, kind: u32, mut body: Vec<u8>) -> io::Result<()> {
        body.extend([OPT_END, 0].map(u16::to_le_bytes).concat());
        // Its type, its length in front and behind, and the body.
        let length = (4 + 4 + body.len() + 4) as u32;
        let whole = [&kind.to_le_bytes(), &length.to_le_bytes(), &body[..], &length.to_le_bytes()];
        // In one call, so that a failing writer leaves no half block if it can help it.
        self.writer.write_all(&whole.concat())
    }
}

fn option(block: &mut Vec<u8>, code: u16, value: &[u8]) {
    block.extend(code.to_le_bytes());
    block.extend((value.len() as u16).to_le_bytes());
    block.extend(value);
    pad(block);
}

/// Everything is a multiple of 4 bytes long.
fn pad(block: &mut Vec<u8>) {
    block.resize(block.len().next_multiple_of(4), 0);
}
