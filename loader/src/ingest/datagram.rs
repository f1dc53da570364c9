//! Parsing a datagram, and storing one that was read from a socket.

use std::net::SocketAddr;

use crate::header::LaminarHeader;
use crate::ids::Partition;
use crate::report::Datagram;

/// Parses a datagram. Returns `None` if the bytes have no valid header. The socket's filter drops
/// such datagrams, so `None` is not expected.
pub fn parse(sender: SocketAddr, bytes: &[u8], partitions: u32) -> Option<Datagram<'_>> {
    let header = LaminarHeader::from_bytes(bytes).filter(LaminarHeader::validate)?;
    let payload = bytes.get(LaminarHeader::SIZE..)?;
    let partition_key = header.partition_key;
    Some(Datagram::new(partition_key % partitions, partition_key, sender, payload))
}

/// A parsed datagram that owns its payload.
#[derive(Debug)]
pub struct OwnedDatagram {
    pub partition: Partition,
    partition_key: u32,
    sender: SocketAddr,
    payload: Box<[u8]>,
}

impl OwnedDatagram {
    pub fn as_datagram(&self) -> Datagram<'_> {
        Datagram::new(self.partition.get(), self.partition_key, self.sender, &self.payload)
    }
}

impl From<Datagram<'_>> for OwnedDatagram {
    fn from(datagram: Datagram<'_>) -> OwnedDatagram {
        OwnedDatagram {
            partition: Partition::new(datagram.partition),
            partition_key: datagram.partition_key,
            sender: datagram.sender,
            payload: datagram.payload.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owned_datagram_equals_the_one_it_was_made_of() {
        let bytes = [&LaminarHeader::new(130, 5).to_bytes()[..], b"hello"].concat();
        let sender = SocketAddr::from(([192, 0, 2, 1], 7));
        let datagram = parse(sender, &bytes, 64).unwrap();
        assert_eq!((datagram.partition, datagram.partition_key), (2, 130));
        assert_eq!(OwnedDatagram::from(datagram).as_datagram(), datagram);
    }

    #[test]
    fn bytes_without_a_valid_header_are_no_datagram() {
        let sender = SocketAddr::from(([192, 0, 2, 1], 7));
        let mut bytes = LaminarHeader::new(1, 0).to_bytes();
        assert_eq!(parse(sender, &bytes[..11], 64), None);
        bytes[0] ^= 1;
        assert_eq!(parse(sender, &bytes, 64), None);
    }
}
