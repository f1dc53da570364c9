//! The rows of the verdict table.

use laminar_xdp::XdpReason;
use testbed::frame::{self, IP, PAYLOAD, UDP, datagram};

use crate::support::{DROP, PASS, REDIRECT};

const INVALID: Option<XdpReason> = Some(XdpReason::Invalid);
const SHORT: Option<XdpReason> = Some(XdpReason::DroppedShort);
const MAGIC: Option<XdpReason> = Some(XdpReason::DroppedMagic);
const LENGTH: Option<XdpReason> = Some(XdpReason::DroppedLength);
const FRAGMENT: Option<XdpReason> = Some(XdpReason::PassedFragment);
const REDIRECTED: Option<XdpReason> = Some(XdpReason::Redirected);

/// A frame, its verdict, and the reason whose counter changes.
pub struct Row {
    pub what: &'static str,
    pub frame: Vec<u8>,
    pub verdict: u32,
    pub reason: Option<XdpReason>,
}

fn row(what: &'static str, frame: Vec<u8>, verdict: u32, reason: Option<XdpReason>) -> Row {
    Row { what, frame, verdict, reason }
}

/// Returns the frame with one byte changed.
pub fn changed(mut frame: Vec<u8>, at: usize, value: u8) -> Vec<u8> {
    frame[at] = value;
    frame
}

/// Returns the frame, truncated to a length in bytes.
pub fn cut(mut frame: Vec<u8>, length: usize) -> Vec<u8> {
    frame.truncate(length);
    frame
}

pub fn ipv4_rows(port: u16) -> Vec<Row> {
    let valid = || frame::udp(port, &datagram(7, b"hello"));
    let empty = || frame::udp(port, &datagram(7, b""));
    let other_port = || frame::udp(port ^ 1, &datagram(7, b"hello"));
    let with_options =
        |options: &[u8]| frame::udp_with_options(port, &datagram(7, b"hello"), options);
    let udp_length = |length| frame::with_udp_length(valid(), length);
    let right = (8 + 12 + 5) as u16; // UDP header, our header, "hello"
    vec![
        // Frames that are not UDP datagrams to our port.
        row("not IP: ARP", changed(valid(), 13, 0x06), PASS, None),
        row("not UDP: TCP", changed(valid(), IP + 9, 6), PASS, None),
        row("not UDP, and malformed", changed(changed(valid(), IP + 9, 6), IP, 0x41), PASS, None),
        row("another port", other_port(), PASS, None),
        row("another port, UDP length wrong", frame::with_udp_length(other_port(), 3), PASS, None),
        // Malformed frames.
        row("IP header cut short", cut(valid(), IP + 19), PASS, INVALID),
        row("Ethernet header only", cut(valid(), IP), PASS, INVALID),
        row("IP header length 16", changed(valid(), IP, 0x44), PASS, INVALID),
        row("IP header length 0", changed(valid(), IP, 0x40), PASS, INVALID),
        row("IP version 6 in an IPv4 frame", changed(valid(), IP, 0x65), PASS, INVALID),
        row("IP options cut short", cut(with_options(&[1; 40]), IP + 59), PASS, INVALID),
        row("UDP header cut short", cut(valid(), UDP + 7), PASS, INVALID),
        row("UDP header missing", cut(valid(), UDP), PASS, INVALID),
        row("UDP length 0", udp_length(0), PASS, INVALID),
        row("UDP length 7", udp_length(7), PASS, INVALID),
        row("UDP length beyond the frame", udp_length(right + 1), PASS, INVALID),
        row("UDP length 65535", udp_length(65_535), PASS, INVALID),
        row("cut within the payload", cut(valid(), PAYLOAD + 12), PASS, INVALID),
        row(
            "UDP length beyond the IP packet, inside the padding",
            frame::padded(udp_length(right + 1), 64),
            PASS,
            INVALID,
        ),
        row(
            "another port, in the padding after the IP packet",
            frame::padded(frame::with_total_length(other_port(), 27), 64),
            PASS,
            INVALID,
        ),
        row(
            "IP total length shorter than the IP header",
            frame::with_total_length(valid(), 19),
            PASS,
            INVALID,
        ),
        // Fragments.
        row(
            "first fragment",
            frame::fragment(port, &datagram(7, b"hello"), 0, true),
            PASS,
            FRAGMENT,
        ),
        row("middle fragment", frame::fragment(port, &[0; 16], 100, true), PASS, FRAGMENT),
        row("last fragment", frame::fragment(port, &[0; 16], 1, false), PASS, FRAGMENT),
        row("last possible offset", frame::fragment(port, &[0; 16], 0x1fff, false), PASS, FRAGMENT),
        row(
            "fragment with IP options cut short counts as invalid",
            cut(changed(frame::fragment(port, &[0; 4], 1, false), IP, 0x4f), IP + 24),
            PASS,
            INVALID,
        ),
        row("flag \"don't fragment\"", changed(valid(), IP + 6, 0x40), REDIRECT, REDIRECTED),
        // Datagrams that are too short for our header.
        row("no payload", frame::udp(port, b""), DROP, SHORT),
        row("11 bytes of payload", frame::udp(port, &datagram(7, b"")[..11]), DROP, SHORT),
        row(
            "11 bytes, padded to a full frame",
            frame::padded(frame::udp(port, &datagram(7, b"")[..11]), 60),
            DROP,
            SHORT,
        ),
        row("UDP length 19 in a longer packet", udp_length(19), DROP, SHORT),
        // Datagrams with a wrong magic. The program checks the magic before the length.
        row("magic's first byte", changed(valid(), PAYLOAD, b'l'), DROP, MAGIC),
        row("magic's last byte", changed(valid(), PAYLOAD + 3, b'J'), DROP, MAGIC),
        row(
            "magic in the other byte order",
            frame::udp(port, &[b"IMAL", &datagram(7, b"")[4..]].concat()),
            DROP,
            MAGIC,
        ),
        row(
            "magic and length wrong",
            changed(changed(valid(), PAYLOAD, 0), PAYLOAD + 11, 9),
            DROP,
            MAGIC,
        ),
        // Datagrams with a wrong length in our header.
        row("length one less", changed(valid(), PAYLOAD + 11, 4), DROP, LENGTH),
        row("length one more", changed(valid(), PAYLOAD + 11, 6), DROP, LENGTH),
        row(
            "length in the other byte order",
            changed(changed(valid(), PAYLOAD + 8, 5), PAYLOAD + 11, 0),
            DROP,
            LENGTH,
        ),
        row(
            "length right for the padded frame only",
            changed(frame::padded(empty(), PAYLOAD + 18), PAYLOAD + 11, 6),
            DROP,
            LENGTH,
        ),
        row("UDP length one less than sent", udp_length(right - 1), DROP, LENGTH),
        // Valid datagrams.
        row("valid", valid(), REDIRECT, REDIRECTED),
        row("valid, no payload", empty(), REDIRECT, REDIRECTED),
        row("valid, padded to a full frame", frame::padded(empty(), 60), REDIRECT, REDIRECTED),
        row("valid, 4 bytes of IP options", with_options(&[1; 4]), REDIRECT, REDIRECTED),
        row("valid, 40 bytes of IP options", with_options(&[1; 40]), REDIRECT, REDIRECTED),
        row(
            "valid, largest payload of an Ethernet frame",
            frame::udp(port, &datagram(7, &[1; 1500 - 28 - 12])),
            REDIRECT,
            REDIRECTED,
        ),
    ]
}

pub fn ipv6_rows(port: u16) -> Vec<Row> {
    const HOP: u8 = 0;
    const ROUTING: u8 = 43;
    const FRAGMENT_HEADER: u8 = 44;
    const ESP: u8 = 50;
    const AUTHENTICATION: u8 = 51;
    const DESTINATION: u8 = 60;
    // The bytes of each extension header without its first byte, which is the type of the next
    // header.
    let (short, long) = (&[0; 7][..], &[&[2][..], &[0; 22]].concat()[..]);
    let authentication = &[&[4][..], &[0; 22]].concat()[..];
    let fragment = |offset: u16, more: bool| {
        [&[0][..], &(offset << 3 | u16::from(more)).to_be_bytes(), &[0; 4]].concat()
    };
    let valid =
        |extensions: &[(u8, &[u8])]| frame::udp_ipv6(port, &datagram(7, b"hello"), extensions);
    let other_port = || frame::udp_ipv6(port ^ 1, &datagram(7, b"hello"), &[]);
    let payload_length = |frame: Vec<u8>, length: u16| {
        changed(changed(frame, IP + 4, (length >> 8) as u8), IP + 5, length as u8)
    };
    let right = (8 + 12 + 5) as u16; // UDP header, our header, "hello"
    let six = [(HOP, short); 6];
    let every = [
        (HOP, long),
        (DESTINATION, short),
        (ROUTING, long),
        (AUTHENTICATION, authentication),
        (DESTINATION, long),
    ];
    vec![
        row("IPv6, another port", other_port(), PASS, None),
        row("IPv6, TCP", changed(valid(&[]), IP + 6, 6), PASS, None),
        row("IPv6, ESP", valid(&[(ESP, short)]), PASS, None),
        row("IPv6, an unknown header", valid(&[(HOP, short), (200, short)]), PASS, None),
        row("IPv6 header cut short", cut(valid(&[]), IP + 39), PASS, INVALID),
        row("IP version 4 in an IPv6 frame", changed(valid(&[]), IP, 0x45), PASS, INVALID),
        row("extension cut short", cut(valid(&[(HOP, long)]), IP + 40 + 23), PASS, INVALID),
        row(
            "extension beyond the IP packet",
            payload_length(valid(&[(HOP, long)]), 23),
            PASS,
            INVALID,
        ),
        row("IPv6, UDP in the padding", payload_length(other_port(), 7), PASS, INVALID),
        row(
            "IPv6, UDP length beyond the IP packet",
            payload_length(frame::padded(valid(&[]), 100), right - 1),
            PASS,
            INVALID,
        ),
        row("seven extensions", valid(&[(HOP, short); 7]), PASS, INVALID),
        row(
            "IPv6, first fragment",
            valid(&[(FRAGMENT_HEADER, &fragment(0, true))]),
            PASS,
            FRAGMENT,
        ),
        row(
            "IPv6, last fragment, after options",
            valid(&[(HOP, short), (FRAGMENT_HEADER, &fragment(100, false))]),
            PASS,
            FRAGMENT,
        ),
        row(
            "IPv6, fragment of another protocol",
            changed(valid(&[(FRAGMENT_HEADER, &fragment(0, true))]), IP + 40, 6),
            PASS,
            None,
        ),
        row("IPv6, wrong magic", changed(valid(&[]), IP + 40 + 8, b'l'), DROP, MAGIC),
        row(
            "IPv6 with extensions, wrong length",
            changed(valid(&[(HOP, long)]), IP + 40 + 24 + 8 + 11, 4),
            DROP,
            LENGTH,
        ),
        row("IPv6, 11 bytes", frame::udp_ipv6(port, &[0; 11], &[(HOP, short)]), DROP, SHORT),
        row("IPv6, valid", valid(&[]), REDIRECT, REDIRECTED),
        row("IPv6, valid, padded", frame::padded(valid(&[]), 200), REDIRECT, REDIRECTED),
        row("IPv6, valid, every extension", valid(&every), REDIRECT, REDIRECTED),
        row("IPv6, valid, six extensions", valid(&six), REDIRECT, REDIRECTED),
        row(
            "IPv6, valid, fragment header on an unfragmented packet",
            valid(&[(FRAGMENT_HEADER, &fragment(0, false))]),
            REDIRECT,
            REDIRECTED,
        ),
    ]
}

pub fn vlan_rows(port: u16) -> Vec<Row> {
    let valid = frame::udp(port, &datagram(7, b"hello"));
    let valid_ipv6 = frame::udp_ipv6(port, &datagram(7, b"hello"), &[]);
    let junk = frame::udp(port, b"junk that is long enough");
    let two = [0x88a8, 0x8100];
    vec![
        row("802.1Q", frame::tagged(&valid, &[0x8100]), REDIRECT, REDIRECTED),
        row("802.1ad", frame::tagged(&valid, &[0x88a8]), REDIRECT, REDIRECTED),
        row("two tags", frame::tagged(&valid, &two), REDIRECT, REDIRECTED),
        row("two tags, IPv6", frame::tagged(&valid_ipv6, &two), REDIRECT, REDIRECTED),
        row("two tags, wrong magic", frame::tagged(&junk, &two), DROP, MAGIC),
        row("three tags", frame::tagged(&valid, &[0x8100; 3]), PASS, None),
        row("a tag and ARP", changed(frame::tagged(&valid, &[0x8100]), 17, 6), PASS, None),
        row("tag cut short", cut(frame::tagged(&valid, &[0x8100]), 17), PASS, INVALID),
        row("second tag cut short", cut(frame::tagged(&valid, &two), 21), PASS, INVALID),
    ]
}
