//! The header of a LaminarDB datagram.

use laminar_xdp_prebuilt::abi;

/// The first 12 bytes of every datagram, in front of the payload. On the wire
/// each field is a big-endian `u32`; in this struct each is a plain integer.
///
/// ```
/// use laminar_xdp::LaminarHeader;
///
/// let header = LaminarHeader::new(42, 5);
/// let datagram = [&header.to_bytes()[..], b"hello"].concat();
/// assert_eq!(&datagram[..4], b"LAMI");
///
/// let parsed = LaminarHeader::from_bytes(&datagram).unwrap();
/// assert!(parsed.validate());
/// assert_eq!((parsed.partition_key, parsed.payload_len), (42, 5));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LaminarHeader {
    /// [`LaminarHeader::MAGIC`] in every valid header.
    pub magic: u32,
    /// Chooses the partition: `partition_key % partitions`.
    pub partition_key: u32,
    /// Bytes of payload that follow the header, by the UDP length.
    pub payload_len: u32,
}

impl LaminarHeader {
    /// "LAMI".
    pub const MAGIC: u32 = abi::LAMINAR_MAGIC;
    /// Bytes of a header on the wire.
    pub const SIZE: usize = size_of::<abi::laminar_header>();

    /// A valid header for `payload_len` bytes of payload.
    pub const fn new(partition_key: u32, payload_len: u32) -> Self {
        Self { magic: Self::MAGIC, partition_key, payload_len }
    }

    /// Whether the magic is right. The program also compares `payload_len` with
    /// what the datagram carries, which a header alone cannot know.
    pub const fn validate(&self) -> bool {
        self.magic == Self::MAGIC
    }

    /// The header as it stands on the wire.
    pub const fn to_bytes(&self) -> [u8; Self::SIZE] {
        let [a, b, c, d] = self.magic.to_be_bytes();
        let [e, f, g, h] = self.partition_key.to_be_bytes();
        let [i, j, k, l] = self.payload_len.to_be_bytes();
        [a, b, c, d, e, f, g, h, i, j, k, l]
    }

    /// Reads the header at the start of `datagram`, whatever its magic; `None`
    /// if there are fewer than [`LaminarHeader::SIZE`] bytes.
    pub fn from_bytes(datagram: &[u8]) -> Option<Self> {
        let word = |at: usize| {
            let bytes = datagram.get(at..at + 4)?;
            Some(u32::from_be_bytes(bytes.try_into().ok()?))
        };
        Some(Self { magic: word(0)?, partition_key: word(4)?, payload_len: word(8)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wire_format_is_the_specified_one() {
        let header = LaminarHeader::new(0x0102_0304, 0x0506_0708);
        assert_eq!(header.to_bytes(), *b"LAMI\x01\x02\x03\x04\x05\x06\x07\x08");
        assert_eq!(LaminarHeader::from_bytes(&header.to_bytes()), Some(header));
    }

    #[test]
    fn a_short_datagram_has_no_header() {
        for len in 0..LaminarHeader::SIZE {
            assert_eq!(LaminarHeader::from_bytes(&[0; LaminarHeader::SIZE][..len]), None);
        }
    }

    #[test]
    fn another_magic_is_not_valid() {
        let mut bytes = LaminarHeader::new(1, 0).to_bytes();
        bytes[3] ^= 1;
        assert!(!LaminarHeader::from_bytes(&bytes).unwrap().validate());
    }
}
