//! The verdict table, straight from its specification. Nothing here is shared with the
//! program or the loader, not even a constant.

/// What becomes of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The kernel goes on with it where it arrived.
    Pass,
    /// It is thrown away.
    Drop,
    /// It goes to the queue of this CPU.
    Redirect(u32),
}

/// Why, for packets that are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// Cannot be judged.
    Invalid,
    /// Part of a datagram.
    Fragment,
    /// Valid, and its partition belongs to nobody.
    NoQueue,
    /// Payload under 12 bytes.
    Short,
    /// Wrong magic.
    Magic,
    /// Payload length is not what the datagram carries.
    Length,
    /// Valid.
    Redirected,
}

/// Verdict and counter; other people's packets move no counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// What becomes of the packet.
    pub verdict: Verdict,
    /// The counter that moves.
    pub reason: Option<Reason>,
}

/// What the program is configured for.
#[derive(Debug, Clone)]
pub struct Model {
    /// UDP port.
    pub port: u16,
    /// For each partition the CPU that owns it and has a queue.
    pub owners: Vec<Option<u32>>,
}

/// The counter that moves where a packet is not valid; none if it is somebody else's.
type NotValid = Option<Reason>;

impl Model {
    /// The answer for a frame.
    pub fn judge(&self, frame: &[u8]) -> Answer {
        let (verdict, reason) = match self.partition_key(frame) {
            Ok(key) => match self.owners[key as usize % self.owners.len()] {
                Some(cpu) => (Verdict::Redirect(cpu), Some(Reason::Redirected)),
                None => (Verdict::Pass, Some(Reason::NoQueue)),
            },
            Err(reason @ Some(Reason::Short | Reason::Magic | Reason::Length)) => {
                (Verdict::Drop, reason)
            }
            Err(reason) => (Verdict::Pass, reason),
        };
        Answer { verdict, reason }
    }

    /// That of a valid frame.
    fn partition_key(&self, frame: &[u8]) -> Result<u32, NotValid> {
        // `room` is what the IP packet leaves for UDP; the frame may be padded.
        let (udp, room) = find_udp(frame)?;
        let header = udp.get(..8).ok_or(Some(Reason::Invalid))?;
        if u16_at(header, 2) != self.port {
            return Err(None);
        }
        let length = usize::from(u16_at(header, 4));
        if length < 8 || length > room || length > udp.len() {
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
        Ok(u32_at(header, 4))
    }
}

/// The UDP header and what follows it, and how much of that is the IP packet's.
fn find_udp(frame: &[u8]) -> Result<(&[u8], usize), NotValid> {
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

fn find_in_ipv4(ip: &[u8]) -> Result<(&[u8], usize), NotValid> {
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
        Some(room) if room >= 8 => Ok((&ip[header_length..], room)),
        _ => Err(Some(Reason::Invalid)),
    }
}

fn find_in_ipv6(ip: &[u8]) -> Result<(&[u8], usize), NotValid> {
    let (header, mut rest) = ip.split_at_checked(40).ok_or(Some(Reason::Invalid))?;
    if header[0] / 16 != 6 {
        return Err(Some(Reason::Invalid));
    }
    let (mut room, mut kind) = (usize::from(u16_at(header, 4)), header[6]);
    let mut extensions = 0;
    // Hop-by-hop options, routing, fragment, authentication, destination options.
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
        room = room.checked_sub(length).ok_or(Some(Reason::Invalid))?;
        rest = rest.get(length..).ok_or(Some(Reason::Invalid))?;
        kind = start[0];
    }
    match kind {
        17 if room >= 8 => Ok((rest, room)),
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
