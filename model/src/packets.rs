//! Generates packets for tests of the program. Most are valid or nearly valid, because packets
//! of random bytes would all fail the first check.

use fastrand::Rng;

/// An endless stream of frames. The same seed gives the same frames.
#[derive(Debug, Clone)]
pub struct Packets {
    random: Rng,
    port: u16,
    frame: Vec<u8>,
    /// The offsets in the frame at which fields begin. Most mutations happen there.
    fields: Vec<usize>,
}

const VLAN: [u16; 2] = [0x8100, 0x88a8];
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const UDP: u8 = 17;
/// Values of the "next header" field: five extension headers, then ESP, "no next header" and
/// TCP.
const NEXT: [u8; 8] = [0, 43, 44, 51, 60, 50, 59, 6];

impl Packets {
    /// Makes a stream of frames. The UDP port of most frames is `port` or slightly higher.
    pub fn new(seed: u64, port: u16) -> Packets {
        Packets { random: Rng::with_seed(seed), port, frame: Vec::new(), fields: Vec::new() }
    }

    /// Returns the next frame.
    pub fn next_frame(&mut self) -> &[u8] {
        self.frame.clear();
        self.fields.clear();
        self.ethernet();
        for _ in 0..self.random.u8(..4).saturating_sub(1) {
            self.mutate();
        }
        &self.frame
    }

    fn one_in(&mut self, n: u32) -> bool {
        self.random.u32(..n) == 0
    }

    fn push(&mut self, bytes: &[u8]) {
        self.fields.push(self.frame.len());
        self.frame.extend_from_slice(bytes);
    }

    fn ethernet(&mut self) {
        self.push(&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2]);
        let tags = [0, 0, 0, 0, 0, 1, 1, 2, 2, 3][self.random.usize(..10)];
        for _ in 0..tags {
            let kind = VLAN[self.random.usize(..2)];
            self.push(&kind.to_be_bytes());
            let tag = self.random.u16(..);
            self.push(&tag.to_be_bytes());
        }
        match self.random.u8(..20) {
            0 => {
                let other = self.random.u16(..);
                self.push(&other.to_be_bytes());
                self.udp();
            }
            1..10 => self.ipv4(),
            _ => self.ipv6(),
        }
        if self.one_in(4) {
            let padded = self.frame.len() + self.random.usize(..40);
            self.frame.resize(padded, 0);
        }
    }

    fn ipv4(&mut self) {
        self.push(&IPV4.to_be_bytes());
        let start = self.frame.len();
        let words = if self.one_in(3) { self.random.u8(5..16) } else { 5 };
        let protocol = if self.one_in(15) { self.random.u8(..) } else { UDP };
        let fragment = match self.random.u8(..12) {
            0 => self.random.u16(..),
            1 => 0x2000,
            2 => self.random.u16(1..0x2000),
            3 => 0x4000,
            _ => 0,
        };
        self.push(&[0x40 | words, 0]);
        self.push(&[0, 0]);
        self.push(&[0, 0]);
        self.push(&fragment.to_be_bytes());
        self.push(&[64, protocol, 0, 0]);
        let host = self.random.u8(..12) * 9;
        self.push(&[192, 0, 2, host]);
        self.push(&[192, 0, 2, 1]);
        self.frame.resize(start + usize::from(words) * 4, 1);
        self.udp();
        let total = (self.frame.len() - start) as u16;
        self.frame[start + 2..start + 4].copy_from_slice(&total.to_be_bytes());
    }

    fn ipv6(&mut self) {
        self.push(&IPV6.to_be_bytes());
        let start = self.frame.len();
        let mut extensions = Vec::new();
        if self.one_in(2) {
            for _ in 0..self.random.u8(..8) {
                let kinds = if self.one_in(8) { NEXT.len() } else { 5 };
                let kind = self.random.usize(..kinds);
                extensions.push(NEXT[kind]);
            }
        }
        extensions.push(if self.one_in(15) { self.random.u8(..) } else { UDP });
        self.push(&[0x60, 0, 0, 0]);
        self.push(&[0, 0]);
        self.push(&[extensions[0], 64]);
        let host = self.random.u8(..12) * 9;
        self.push(&[0xfd, 0, 0, 0, 0, 0, 0, 0]);
        // Half of the addresses end like IPv4-mapped addresses, but start with 0xfd.
        self.push(if host.is_multiple_of(2) { &[0, 0, 0xff, 0xff] } else { &[0; 4] });
        self.push(&[192, 0, 2, host]);
        self.push(&[0xfd; 16]);
        for pair in extensions.windows(2) {
            let (kind, next) = (pair[0], pair[1]);
            let units = if self.one_in(3) { self.random.u8(..6) } else { 0 };
            let (offset, units, unit) = match kind {
                44 if self.one_in(2) => (self.random.u16(..), self.random.u8(..), 0),
                44 => (0, self.random.u8(..), 0),
                51 => (self.random.u16(..), units, 4),
                _ => (self.random.u16(..), units, 8),
            };
            self.push(&[next, units]);
            self.push(&offset.to_be_bytes());
            self.push(&[0; 4]);
            let more = self.frame.len() + usize::from(units) * unit;
            self.frame.resize(more, 2);
        }
        self.udp();
        let payload = (self.frame.len() - start - 40) as u16;
        self.frame[start + 4..start + 6].copy_from_slice(&payload.to_be_bytes());
    }

    fn udp(&mut self) {
        let start = self.frame.len();
        let port = match self.random.u8(..20) {
            0 => self.random.u16(..),
            1 => self.port.swap_bytes(),
            2 => self.port ^ 1,
            3..6 => self.port + self.random.u16(..20),
            _ => self.port,
        };
        self.push(&40_000u16.to_be_bytes());
        self.push(&port.to_be_bytes());
        self.push(&[0, 0]);
        self.push(&[0, 0]);
        self.datagram();
        let length = (self.frame.len() - start) as u16;
        self.frame[start + 4..start + 6].copy_from_slice(&length.to_be_bytes());
    }

    fn datagram(&mut self) {
        let payload = [0, 0, 1, 2, 11, 12, 40, self.random.usize(..200)][self.random.usize(..8)];
        let magic = match self.random.u8(..20) {
            0 => *b"IMAL",
            1 => self.random.u32(..).to_be_bytes(),
            2 => *b"LAMJ",
            _ => *b"LAMI",
        };
        let length = match self.random.u8(..20) {
            0 => self.random.u32(..),
            1 => (payload as u32).swap_bytes(),
            2 => payload as u32 + 12,
            3 => (payload as u32).wrapping_sub(1),
            4 => 1 << 16 | payload as u32,
            _ => payload as u32,
        };
        let key = if self.one_in(2) { self.random.u32(..200) } else { self.random.u32(..) };
        self.push(&magic);
        self.push(&key.to_be_bytes());
        self.push(&length.to_be_bytes());
        self.push(&[]);
        self.frame.resize(self.frame.len() + payload, 7);
        if self.one_in(15) {
            let cut = self.frame.len() - self.random.usize(..12 + payload).min(12 + payload);
            self.frame.truncate(cut);
        }
    }

    /// Changes a byte or the length of the frame, most often near the beginning of a field.
    fn mutate(&mut self) {
        if self.frame.is_empty() || self.fields.is_empty() {
            return;
        }
        let field = self.fields[self.random.usize(..self.fields.len())];
        let near = field + self.random.usize(..4);
        let at = if self.one_in(4) { self.random.usize(..self.frame.len()) } else { near };
        match self.random.u8(..8) {
            0 => self.frame.truncate(at),
            1 => self.frame.truncate(field.saturating_sub(1)),
            2 => self.frame.truncate(field),
            3 => {
                let longer = self.frame.len() + self.random.usize(..64);
                self.frame.resize(longer, 0);
            }
            4 => self.change(at, |byte, _| byte.wrapping_add(1)),
            5 => self.change(at, |byte, _| byte.wrapping_sub(1)),
            6 => self.change(at, |byte, random| byte ^ 1 << random.u8(..8)),
            _ => self.change(at, |_, random| random.u8(..)),
        }
    }

    fn change(&mut self, at: usize, change: impl FnOnce(u8, &mut Rng) -> u8) {
        if let Some(byte) = self.frame.get_mut(at) {
            *byte = change(*byte, &mut self.random);
        }
    }
}
