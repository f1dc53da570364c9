//! The header of a LaminarDB datagram.

use laminar_xdp_prebuilt::abi;

/// The header of a LaminarDB datagram: its first 12 bytes. The payload follows.
///
/// On the wire each field is a big-endian `u32`. In this struct each field is an integer in
/// host byte order; [`LaminarHeader::to_bytes`] and [`LaminarHeader::from_bytes`] convert.
///
/// ```
/// use laminar_xdp::LaminarHeader;
///
/// let header = LaminarHeader::new(42, 5);
/// let datagram = [&header.to_bytes()[..], b"hello"].concat();
/// assert_eq!(&datagram, b"LAMI\0\0\0\x2a\0\0\0\x05hello");
///
/// let parsed = LaminarHeader::from_bytes(&datagram).unwrap();
/// assert!(parsed.validate());
/// assert_eq!((parsed.partition_key, parsed.payload_len), (42, 5));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LaminarHeader {
    /// Marks a LaminarDB datagram: [`LaminarHeader::MAGIC`] in every valid header.
    pub magic: u32,
    /// Chooses the partition: `partition_key % partitions`.
    pub partition_key: u32,
    /// Number of payload bytes after the header. In a valid datagram it is exactly the UDP
    /// length minus the 8 bytes of the UDP header and the 12 bytes of this header.
    pub payload_len: u32,
}

impl LaminarHeader {
    /// The magic of a valid header: `0x4c414d49`, which is "LAMI" on the wire.
    pub const MAGIC: u32 = abi::LAMINAR_MAGIC;
    /// Size of a header on the wire in bytes: 12.
    pub const SIZE: usize = size_of::<abi::laminar_header>();

    /// Makes a valid header for `payload_len` bytes of payload.
    pub const fn new(partition_key: u32, payload_len: u32) -> Self {
        Self { magic: Self::MAGIC, partition_key, payload_len }
    }

    /// Whether the magic is right. XDP and the socket filters also compare `payload_len` with the
    /// length of the datagram. This method cannot, because the header does not contain that
    /// length.
    pub const fn validate(&self) -> bool {
        self.magic == Self::MAGIC
    }

    /// Returns the header as it is on the wire, big-endian.
    pub const fn to_bytes(&self) -> [u8; Self::SIZE] {
        let [a, b, c, d] = self.magic.to_be_bytes();
        let [e, f, g, h] = self.partition_key.to_be_bytes();
        let [i, j, k, l] = self.payload_len.to_be_bytes();
        [a, b, c, d, e, f, g, h, i, j, k, l]
    }

    /// Reads the header at the start of `datagram`. Returns `None` if `datagram` has fewer than
    /// [`LaminarHeader::SIZE`] bytes. Call [`LaminarHeader::validate`] to check the magic.
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
    fn fields_are_big_endian_on_the_wire() {
        let header = LaminarHeader::new(0x0102_0304, 0x0506_0708);
        assert_eq!(header.to_bytes(), *b"LAMI\x01\x02\x03\x04\x05\x06\x07\x08");
        assert_eq!(LaminarHeader::from_bytes(&header.to_bytes()), Some(header));
    }

    #[test]
    fn a_datagram_shorter_than_a_header_has_none() {
        for len in 0..LaminarHeader::SIZE {
            assert_eq!(LaminarHeader::from_bytes(&[0; LaminarHeader::SIZE][..len]), None);
        }
    }

    #[test]
    fn a_header_with_another_magic_is_invalid() {
        let mut bytes = LaminarHeader::new(1, 0).to_bytes();
        bytes[3] ^= 1;
        assert!(!LaminarHeader::from_bytes(&bytes).unwrap().validate());
    }
}
