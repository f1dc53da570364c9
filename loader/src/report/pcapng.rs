//! Writes samples to a file that Wireshark opens.

use std::io::{self, Write};
use std::time::UNIX_EPOCH;

use crate::report::DropSample;

/// Writes samples in the pcapng format (draft-ietf-opsawg-pcapng), which Wireshark and tcpdump
/// read.
///
/// The file is little-endian. The file has one section with one interface of link type Ethernet,
/// and one packet block for each sample. The block's comment is the name of the drop reason; its
/// time is in nanoseconds since 1970.
///
/// ```no_run
/// use laminar_xdp::{PcapngWriter, XdpLoader};
/// use std::time::Duration;
///
/// fn capture(loader: &XdpLoader) -> Result<(), Box<dyn std::error::Error>> {
///     let file = std::fs::File::create("drops.pcapng")?;
///     let mut capture = PcapngWriter::new(file, "eth0")?;
///     for sample in loader.controls().drop_samples(Duration::from_secs(1))? {
///         capture.write(&sample)?;
///     }
///     Ok(())
/// }
/// ```
///
/// Any writer works, for example a vector:
///
/// ```
/// use laminar_xdp::{DropSample, PcapngWriter, XdpReason};
/// use std::time::SystemTime;
///
/// let mut capture = PcapngWriter::new(Vec::new(), "eth0")?;
/// capture.write(&DropSample::new(SystemTime::now(), XdpReason::DroppedMagic, 60, [0; 60]))?;
/// let file = capture.into_inner();
/// assert_eq!(file[..4], [0x0a, 0x0d, 0x0d, 0x0a]);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct PcapngWriter<W> {
    writer: W,
}

// Block types, option codes and the link type, from the specification.
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

/// The resolution of timestamps as a negative power of ten.
const NANOSECONDS: u8 = 9;

impl<W: Write> PcapngWriter<W> {
    /// Writes the section header and the description of the interface.
    ///
    /// Each block is written by one call of [`Write::write_all`], so a buffered writer is not
    /// needed.
    ///
    /// # Errors
    /// Those of the writer, and [`io::ErrorKind::InvalidInput`] for an interface name of
    /// 65,536 bytes or more.
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

    /// Writes one sample. Bytes beyond [`DropSample::MAX_PACKET`] are left out.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn write(&mut self, sample: &DropSample) -> io::Result<()> {
        let since_epoch = sample.time.duration_since(UNIX_EPOCH).unwrap_or_default();
        // 64 bits of nanoseconds last until the year 2554.
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

    /// Returns the writer.
    pub fn into_inner(self) -> W {
        self.writer
    }

    /// Writes a block. `body` ends with its options; this function adds the mark that ends them.
    fn block(&mut self, kind: u32, mut body: Vec<u8>) -> io::Result<()> {
        body.extend([OPT_END, 0].map(u16::to_le_bytes).concat());
        // The type, the length, the body, and the length again.
        let length = (4 + 4 + body.len() + 4) as u32;
        let whole = [&kind.to_le_bytes(), &length.to_le_bytes(), &body[..], &length.to_le_bytes()];
        // One call, so that a failing writer is less likely to leave half a block.
        self.writer.write_all(&whole.concat())
    }
}

fn option(block: &mut Vec<u8>, code: u16, value: &[u8]) {
    block.extend(code.to_le_bytes());
    block.extend((value.len() as u16).to_le_bytes());
    block.extend(value);
    pad(block);
}

/// The format aligns packets and options to 4 bytes.
fn pad(block: &mut Vec<u8>) {
    block.resize(block.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::report::XdpReason;

    fn words(block: &[u8]) -> Vec<u32> {
        block.chunks_exact(4).map(|word| u32::from_le_bytes(word.try_into().unwrap())).collect()
    }

    #[test]
    fn a_sample_becomes_one_aligned_packet_block_after_the_headers() {
        let headers = PcapngWriter::new(Vec::new(), "eth0").unwrap().into_inner();
        let mut capture = PcapngWriter::new(Vec::new(), "eth0").unwrap();
        let time = UNIX_EPOCH + Duration::from_nanos((7 << 32) + 5);
        let sample = DropSample::new(time, XdpReason::DroppedMagic, 1000, [0xab; 5]);
        capture.write(&sample).unwrap();
        let file = capture.into_inner();
        assert_eq!(file[..headers.len()], headers);
        let block = words(&file[headers.len()..]);
        assert_eq!(block[0], ENHANCED_PACKET);
        assert_eq!(block[1] as usize, file.len() - headers.len());
        assert_eq!(block[2..7], [0, 7, 5, 5, 1000]);
        assert_eq!(block[7..9], [0xabab_abab, 0xab]);
        assert_eq!(block.last(), Some(&block[1]));
    }

    #[test]
    fn packets_are_cut_to_the_length_that_the_interface_states() {
        let too_long = vec![1; DropSample::MAX_PACKET + 4];
        let sample = DropSample::new(UNIX_EPOCH, XdpReason::DroppedShort, 2000, too_long);
        let mut capture = PcapngWriter::new(Vec::new(), "").unwrap();
        let start = capture.writer.len();
        capture.write(&sample).unwrap();
        assert_eq!(words(&capture.writer[start..])[5], DropSample::MAX_PACKET as u32);
    }

    #[test]
    fn an_interface_name_longer_than_an_option_is_refused() {
        let error = PcapngWriter::new(Vec::new(), &"x".repeat(65_536)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }
}
