//! Ethernet frames for tests, and functions that damage a well-formed frame.

use std::net::IpAddr;

use etherparse::{IpFragOffset, IpNumber, Ipv4Header, Ipv4Options, PacketBuilder, UdpHeader};

use crate::testnet::TestNet;

const SENDER_PORT: u16 = 40_000;
const IPV6_SENDER: [u8; 16] = [0xfd; 16];
const IPV6_RECEIVER: [u8; 16] = [0xfe; 16];

/// Offset of the IPv4 header in a frame.
pub const IP: usize = 14;
/// Offset of the UDP header in a frame without IP options.
pub const UDP: usize = IP + 20;
/// Offset of the datagram's payload in a frame without IP options.
pub const PAYLOAD: usize = UDP + 8;

/// A LaminarDB datagram: header and payload. The format is implemented here a second time, so
/// that a test finds a mistake in the crate under test.
pub fn datagram(partition_key: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = b"LAMI".to_vec();
    bytes.extend(partition_key.to_be_bytes());
    bytes.extend((payload.len() as u32).to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A frame with a UDP datagram from the sender to the receiver.
pub fn udp(port: u16, payload: &[u8]) -> Vec<u8> {
    udp_from(TestNet::SENDER.into(), port, payload)
}

/// Like [`udp`], from another IPv4 or IPv6 address.
pub fn udp_from(source: IpAddr, port: u16, payload: &[u8]) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(TestNet::SENDER_MAC, TestNet::RECEIVER_MAC);
    let builder = match source {
        IpAddr::V4(source) => builder.ipv4(source.octets(), TestNet::RECEIVER.octets(), 64),
        IpAddr::V6(source) => builder.ipv6(source.octets(), IPV6_RECEIVER, 64),
    };
    let builder = builder.udp(SENDER_PORT, port);
    let mut frame = Vec::with_capacity(builder.size(payload.len()));
    builder.write(&mut frame, payload).expect("writing to memory");
    frame
}

/// Like [`udp`], to another IPv4 address. The hardware address stays the receiver's.
pub fn udp_to(address: [u8; 4], port: u16, payload: &[u8]) -> Vec<u8> {
    ipv4(port, payload, |header| header.destination = address)
}

/// Like [`udp`], with `options` (a multiple of 4 bytes) in the IP header.
pub fn udp_with_options(port: u16, payload: &[u8], options: &[u8]) -> Vec<u8> {
    let options = Ipv4Options::try_from(options).expect("options of a legal length");
    ipv4(port, payload, |header| header.options = options)
}

/// Like [`udp`], as a fragment at `offset` (in units of 8 bytes). `more` is the "more
/// fragments" flag.
pub fn fragment(port: u16, payload: &[u8], offset: u16, more: bool) -> Vec<u8> {
    ipv4(port, payload, |header| {
        header.more_fragments = more;
        header.fragment_offset = IpFragOffset::try_new(offset).expect("an offset of 13 bits");
    })
}

/// A frame with a UDP datagram over IPv6. Extension headers precede the UDP header. Each
/// extension is a pair: its header type, and its bytes except the first. This function fills
/// in the first byte, which is the type of the next header.
pub fn udp_ipv6(port: u16, payload: &[u8], extensions: &[(u8, &[u8])]) -> Vec<u8> {
    let whole = udp_from(IPV6_SENDER.into(), port, payload);
    let (mut frame, udp) = (whole[..IP + 40].to_vec(), &whole[IP + 40..]);
    let mut kind_at = IP + 6;
    for (kind, rest) in extensions {
        frame[kind_at] = *kind;
        kind_at = frame.len();
        frame.push(IpNumber::UDP.0);
        frame.extend(*rest);
    }
    frame.extend(udp);
    let length = (frame.len() - IP - 40) as u16;
    frame[IP + 4..IP + 6].copy_from_slice(&length.to_be_bytes());
    frame
}

/// The frame with VLAN tags of these types. The first type is that of the outermost tag.
pub fn tagged(frame: &[u8], types: &[u16]) -> Vec<u8> {
    let tags = types.iter().flat_map(|kind| [kind.to_be_bytes(), [0x20, 7]]).flatten();
    frame[..IP - 2].iter().copied().chain(tags).chain(frame[IP - 2..].iter().copied()).collect()
}

/// The frame with its UDP length field set to `length`.
pub fn with_udp_length(mut frame: Vec<u8>, length: u16) -> Vec<u8> {
    frame[UDP + 4..UDP + 6].copy_from_slice(&length.to_be_bytes());
    frame
}

/// The frame with its IPv4 total length field set to `length`.
pub fn with_total_length(mut frame: Vec<u8>, length: u16) -> Vec<u8> {
    frame[IP + 2..IP + 4].copy_from_slice(&length.to_be_bytes());
    frame
}

/// The frame padded with zeros to `length` bytes.
pub fn padded(mut frame: Vec<u8>, length: usize) -> Vec<u8> {
    frame.resize(frame.len().max(length), 0);
    frame
}

/// A frame with a UDP datagram over IPv4. `change` modifies the IPv4 header, and then the
/// lengths and checksums are set to fit the modified header.
fn ipv4(port: u16, payload: &[u8], change: impl FnOnce(&mut Ipv4Header)) -> Vec<u8> {
    let (from, to) = (TestNet::SENDER.octets(), TestNet::RECEIVER.octets());
    let mut ip = Ipv4Header::new(0, 64, IpNumber::UDP, from, to).expect("a short payload");
    change(&mut ip);
    let udp_length = UdpHeader::LEN + payload.len();
    ip.set_payload_len(udp_length).expect("a short payload");
    ip.header_checksum = ip.calc_header_checksum();
    let udp_header =
        UdpHeader::with_ipv4_checksum(SENDER_PORT, port, &ip, payload).expect("a short payload");

    let mut frame = udp(0, &[])[..IP].to_vec();
    ip.write(&mut frame).expect("writing to memory");
    udp_header.write(&mut frame).expect("writing to memory");
    frame.extend(payload);
    frame
}
