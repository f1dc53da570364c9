//! Ethernet frames, well-formed first and then spoilt on purpose.

use std::net::IpAddr;

use etherparse::{IpFragOffset, IpNumber, Ipv4Header, Ipv4Options, PacketBuilder, UdpHeader};

use crate::testnet::TestNet;

/// Offset of the IPv4 header in a frame.
pub const IP: usize = 14;
/// Offset of the UDP header in a frame without IP options.
pub const UDP: usize = IP + 20;
/// Offset of the datagram's payload in a frame without IP options.
pub const PAYLOAD: usize = UDP + 8;

/// The payload of a LaminarDB datagram, written out here and not taken from the
/// crate under test.
pub fn datagram(partition_key: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = b"LAMI".to_vec();
    bytes.extend(partition_key.to_be_bytes());
    bytes.extend((payload.len() as u32).to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A frame with a UDP datagram from sender to receiver.
pub fn udp(port: u16, payload: &[u8]) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(TestNet::SENDER_MAC, TestNet::RECEIVER_MAC)
        .ipv4(TestNet::SENDER.octets(), TestNet::RECEIVER.octets(), 64)
        .udp(40_000, port);
    let mut frame = Vec::with_capacity(builder.size(payload.len()));
    builder.write(&mut frame, payload).expect("writing to memory");
    frame
}

/// The same from another address, of either family.
pub fn udp_from(source: IpAddr, port: u16, payload: &[u8]) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(TestNet::SENDER_MAC, TestNet::RECEIVER_MAC);
    let builder = match source {
        IpAddr::V4(source) => builder.ipv4(source.octets(), TestNet::RECEIVER.octets(), 64),
        IpAddr::V6(source) => builder.ipv6(source.octets(), [0xfe; 16], 64),
    };
    let builder = builder.udp(40_000, port);
    let mut frame = Vec::with_capacity(builder.size(payload.len()));
    builder.write(&mut frame, payload).expect("writing to memory");
    frame
}

/// The same to another IPv4 address, in a frame to the receiver all the same.
pub fn udp_to(address: [u8; 4], port: u16, payload: &[u8]) -> Vec<u8> {
    ipv4(port, payload, |header| header.destination = address)
}

/// The same with `options` (a multiple of 4 bytes) in the IP header.
pub fn udp_with_options(port: u16, payload: &[u8], options: &[u8]) -> Vec<u8> {
    let options = Ipv4Options::try_from(options).expect("options of a legal length");
    ipv4(port, payload, |header| header.options = options)
}

/// The same as a fragment: at `offset` (in units of 8 bytes), with more to come
/// or not.
pub fn fragment(port: u16, payload: &[u8], offset: u16, more: bool) -> Vec<u8> {
    ipv4(port, payload, |header| {
        header.more_fragments = more;
        header.fragment_offset = IpFragOffset::try_new(offset).expect("an offset of 13 bits");
    })
}

/// A frame with a UDP datagram over IPv6, behind extension headers: each its kind and what
/// it holds behind its first byte, the kind of the next.
pub fn udp_ipv6(port: u16, payload: &[u8], extensions: &[(u8, &[u8])]) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(TestNet::SENDER_MAC, TestNet::RECEIVER_MAC)
        .ipv6([0xfd; 16], [0xfe; 16], 64)
        .udp(40_000, port);
    let mut whole = Vec::with_capacity(builder.size(payload.len()));
    builder.write(&mut whole, payload).expect("writing to memory");
    let (mut frame, udp) = (whole[..IP + 40].to_vec(), &whole[IP + 40..]);
    let mut kind_at = IP + 6;
    for (kind, rest) in extensions {
        frame[kind_at] = *kind;
        kind_at = frame.len();
        frame.push(17);
        frame.extend(*rest);
    }
    frame.extend(udp);
    let length = (frame.len() - IP - 40) as u16;
    frame[IP + 4..IP + 6].copy_from_slice(&length.to_be_bytes());
    frame
}

/// The frame with VLAN tags of these types, the first one outermost.
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

fn ipv4(port: u16, payload: &[u8], change: impl FnOnce(&mut Ipv4Header)) -> Vec<u8> {
    let (from, to) = (TestNet::SENDER.octets(), TestNet::RECEIVER.octets());
    let mut ip = Ipv4Header::new(0, 64, IpNumber::UDP, from, to).expect("a short payload");
    change(&mut ip);
    let udp_length = UdpHeader::LEN + payload.len();
    ip.set_payload_len(udp_length).expect("a short payload");
    ip.header_checksum = ip.calc_header_checksum();
    let udp = UdpHeader::with_ipv4_checksum(40_000, port, &ip, payload).expect("a short payload");

    let mut frame = udp_ethernet();
    ip.write(&mut frame).expect("writing to memory");
    udp.write(&mut frame).expect("writing to memory");
    frame.extend(payload);
    frame
}

fn udp_ethernet() -> Vec<u8> {
    udp(0, &[])[..IP].to_vec()
}
