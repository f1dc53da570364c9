//! The verdict table, implemented from its specification. This module shares no code and no
//! constant with the BPF program and the loader, because a test cannot find a mistake that
//! both sides share. It shares one struct, `laminar_settings`, so that a test passes a load-time
//! constant to the model and to the program in the same field.

use std::collections::HashMap;
use std::net::IpAddr;

use laminar_xdp_prebuilt::abi::laminar_settings;

/// What happens to a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The kernel processes the packet on the CPU where it arrived.
    Pass,
    /// The kernel drops the packet.
    Drop,
    /// The kernel moves the packet to the queue of this CPU.
    Redirect(u32),
}

/// Why a packet got its verdict. Each reason has a counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// A header of the packet is malformed, so the packet cannot be judged.
    Invalid,
    /// The packet is a fragment of a datagram.
    Fragment,
    /// The packet is valid, but its partition has no owner.
    NoQueue,
    /// The payload is shorter than 12 bytes.
    Short,
    /// The payload does not start with the magic bytes.
    Magic,
    /// The length field in the LaminarDB header is not the length of the datagram's payload.
    Length,
    /// The packet is valid, and the CPU that owns its partition has a queue.
    Redirected,
    /// The source is on the deny list.
    Denied,
    /// The packet is valid, but the bucket of its source is empty.
    Rate,
}

/// The verdict on a packet, and the reason for the verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// What happens to the packet.
    pub verdict: Verdict,
    /// The reason, which is also the counter of the packet. `None` for a packet that is not
    /// UDP to one of the ports; such a packet passes and is not counted.
    pub reason: Option<Reason>,
}

/// An address, and how many of its leading bits a source must share.
pub type Prefix = (IpAddr, u8);

/// Lists of sources.
#[derive(Debug, Clone, Default)]
pub struct Lists {
    /// Sources whose packets are dropped.
    pub deny: Vec<Prefix>,
    /// Sources without a limit. A source on both lists is denied.
    pub allow: Vec<Prefix>,
}

/// The size and rate of the token bucket that each source has.
#[derive(Debug, Clone, Copy)]
pub struct Limit {
    /// The time in nanoseconds in which a bucket gains one packet.
    pub interval: u64,
    /// The number of packets in a full bucket.
    pub burst: u64,
}

/// The configuration of the program, and the state of the buckets.
#[derive(Debug, Clone)]
pub struct Model {
    /// The UDP ports whose packets are judged.
    pub ports: Vec<u16>,
    /// For each partition, the CPU that owns it, or `None` if no CPU with a queue owns it.
    pub owners: Vec<Option<u32>>,
    /// The load-time constants of the program. The model does not read `features` and
    /// `interface_slot`, which change no verdict by themselves.
    pub settings: laminar_settings,
    /// The lists of sources, if the feature is on.
    pub lists: Option<Lists>,
    /// The limit of each source, if the feature is on.
    pub limit: Option<Limit>,
    /// The time in nanoseconds, which the caller advances.
    pub now: u64,
    buckets: HashMap<IpAddr, Bucket>,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    /// The content of the bucket, measured as time: the nanoseconds in which an empty bucket
    /// gains that content. Each packet costs [`Limit::interval`].
    content: u64,
    updated_at: u64,
}

/// Why a packet is not valid. `None` for a packet that is not UDP to one of the ports.
type NotValid = Option<Reason>;

/// The UDP header in a frame.
struct Udp<'a> {
    source: IpAddr,
    /// The bytes from the UDP header to the end of the frame.
    bytes: &'a [u8],
    /// How many bytes from the UDP header on belong to the IP packet, according to the IP header.
    /// The frame may be shorter, or have padding after the IP packet.
    max_length: usize,
}

impl Model {
    /// Makes a model without lists and without a limit.
    pub fn new(port: u16, owners: Vec<Option<u32>>) -> Model {
        let (ports, buckets) = (vec![port], HashMap::new());
        let partitions = owners.len() as u32;
        let settings = laminar_settings { partitions, features: 0, interface_slot: 0 };
        Model { ports, owners, settings, lists: None, limit: None, now: 0, buckets }
    }

    /// Fills every bucket.
    pub fn refill_buckets(&mut self) {
        self.buckets.clear();
    }

    /// Judges a frame.
    pub fn judge(&mut self, frame: &[u8]) -> Answer {
        let (verdict, reason) = match self.partition_key(frame) {
            Ok(key) => match self.owners[(key % self.settings.partitions) as usize] {
                Some(cpu) => (Verdict::Redirect(cpu), Some(Reason::Redirected)),
                None => (Verdict::Pass, Some(Reason::NoQueue)),
            },
            Err(reason @ (None | Some(Reason::Invalid | Reason::Fragment))) => {
                (Verdict::Pass, reason)
            }
            Err(reason) => (Verdict::Drop, reason),
        };
        Answer { verdict, reason }
    }

    /// Returns the partition key of a valid frame.
    fn partition_key(&mut self, frame: &[u8]) -> Result<u32, NotValid> {
        let Udp { source, bytes: udp, max_length } = find_udp(frame)?;
        let header = udp.get(..8).ok_or(Some(Reason::Invalid))?;
        if !self.ports.contains(&u16_at(header, 2)) {
            return Err(None);
        }
        let is_in = |list: &[Prefix]| list.iter().any(|prefix| is_within(source, *prefix));
        if self.lists.as_ref().is_some_and(|lists| is_in(&lists.deny)) {
            return Err(Some(Reason::Denied));
        }
        let length = usize::from(u16_at(header, 4));
        if length < 8 || length > max_length || length > udp.len() {
            return Err(Some(Reason::Invalid));
        }
        let datagram = &udp[8..length];
        let (header, payload) = datagram.split_at_checked(12).ok_or(Some(Reason::Short))?;
        if &header[..4] != b"LAMI" {
            return Err(Some(Reason::Magic));
        }
        if u32_at(header, 8) as usize != payload.len() {
            return Err(Some(Reason::Length));
        }
        let is_allowed = self.lists.as_ref().is_some_and(|lists| is_in(&lists.allow));
        if !is_allowed && !self.take_token(source) {
            return Err(Some(Reason::Rate));
        }
        Ok(u32_at(header, 4))
    }

    /// Takes the tokens for one packet from the bucket of a source. Returns false if the bucket
    /// does not have enough. Without a limit, always returns true.
    fn take_token(&mut self, source: IpAddr) -> bool {
        let Some(Limit { interval, burst }) = self.limit else { return true };
        let (full, now) = (burst * interval, self.now);
        let bucket =
            self.buckets.entry(source).or_insert(Bucket { content: full, updated_at: now });
        bucket.content = full.min(bucket.content + (now - bucket.updated_at));
        bucket.updated_at = now;
        let has_packet = bucket.content >= interval;
        if has_packet {
            bucket.content -= interval;
        }
        has_packet
    }
}

fn is_within(address: IpAddr, (prefix, length): Prefix) -> bool {
    let bits = |address: IpAddr| match address {
        IpAddr::V4(address) => u128::from(address.to_bits()) << 96,
        IpAddr::V6(address) => address.to_bits(),
    };
    let differ = bits(address) ^ bits(prefix);
    address.is_ipv4() == prefix.is_ipv4() && differ.leading_zeros() >= u32::from(length)
}

fn find_udp(frame: &[u8]) -> Result<Udp<'_>, NotValid> {
    let (ethernet, mut rest) = frame.split_at_checked(14).ok_or(Some(Reason::Invalid))?;
    let mut ether_type = u16_at(ethernet, 12);
    for _ in 0..2 {
        if !matches!(ether_type, 0x8100 | 0x88a8) {
            break;
        }
        let (tag, behind) = rest.split_at_checked(4).ok_or(Some(Reason::Invalid))?;
        (ether_type, rest) = (u16_at(tag, 2), behind);
    }
    match ether_type {
        0x0800 => find_in_ipv4(rest),
        0x86dd => find_in_ipv6(rest),
        _ => Err(None),
    }
}

fn find_in_ipv4(ip: &[u8]) -> Result<Udp<'_>, NotValid> {
    let header = ip.get(..20).ok_or(Some(Reason::Invalid))?;
    if header[9] != 17 {
        return Err(None);
    }
    let header_length = usize::from(header[0] % 16) * 4;
    if header[0] / 16 != 4 || header_length < 20 || header_length > ip.len() {
        return Err(Some(Reason::Invalid));
    }
    let (flags_and_offset, total_length) = (u16_at(header, 6), usize::from(u16_at(header, 2)));
    let (more_fragments, offset) = (flags_and_offset & 0x2000 != 0, flags_and_offset & 0x1fff);
    if more_fragments || offset != 0 {
        return Err(Some(Reason::Fragment));
    }
    match total_length.checked_sub(header_length) {
        Some(max_length) if max_length >= 8 => {
            let source = IpAddr::from([header[12], header[13], header[14], header[15]]);
            Ok(Udp { source, bytes: &ip[header_length..], max_length })
        }
        _ => Err(Some(Reason::Invalid)),
    }
}

fn find_in_ipv6(ip: &[u8]) -> Result<Udp<'_>, NotValid> {
    let (header, mut rest) = ip.split_at_checked(40).ok_or(Some(Reason::Invalid))?;
    if header[0] / 16 != 6 {
        return Err(Some(Reason::Invalid));
    }
    let (mut max_length, mut kind) = (usize::from(u16_at(header, 4)), header[6]);
    let mut extensions = 0;
    // In this order: hop-by-hop options, routing, fragment, authentication, destination options.
    while let 0 | 43 | 44 | 51 | 60 = kind {
        extensions += 1;
        if extensions > 6 {
            return Err(Some(Reason::Invalid));
        }
        let start = rest.get(..8).ok_or(Some(Reason::Invalid))?;
        let length = match kind {
            44 => 8,
            51 => (usize::from(start[1]) + 2) * 4,
            _ => (usize::from(start[1]) + 1) * 8,
        };
        let (offset, more_fragments) = (u16_at(start, 2) / 8, start[3] % 2 == 1);
        if kind == 44 && (offset != 0 || more_fragments) {
            return Err((start[0] == 17).then_some(Reason::Fragment));
        }
        max_length = max_length.checked_sub(length).ok_or(Some(Reason::Invalid))?;
        rest = rest.get(length..).ok_or(Some(Reason::Invalid))?;
        kind = start[0];
    }
    match kind {
        17 if max_length >= 8 => {
            let source: [u8; 16] = std::array::from_fn(|i| header[8 + i]);
            Ok(Udp { source: source.into(), bytes: rest, max_length })
        }
        17 => Err(Some(Reason::Invalid)),
        _ => Err(None),
    }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}
