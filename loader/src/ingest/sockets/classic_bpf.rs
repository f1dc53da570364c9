//! Classic BPF programs, for kernels without the needed eBPF features and for processes that
//! may not load eBPF. Classic programs need no capabilities, and they have no maps and no
//! counters. The kernel copies and verifies each program when it is attached.

use laminar_xdp_prebuilt::abi;

use crate::object::SocketSettings;
use crate::sys::socket::ClassicInstruction as Instruction;

const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
const LOAD_BYTE: u32 = libc::BPF_LD | libc::BPF_B | libc::BPF_ABS;
const LOAD_LENGTH: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_LEN;
const A_TO_X: u32 = libc::BPF_MISC | libc::BPF_TAX;
const SUBTRACT: u32 = libc::BPF_ALU | libc::BPF_SUB | libc::BPF_K;
const MODULO: u32 = libc::BPF_ALU | libc::BPF_MOD | libc::BPF_K;
const EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
const EQUAL_X: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_X;
const AT_LEAST: u32 = libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K;
const RETURN: u32 = libc::BPF_RET | libc::BPF_K;
const RETURN_A: u32 = libc::BPF_RET | libc::BPF_A;

const WHOLE_DATAGRAM: u32 = u32::MAX;
const UDP_HEADER: u32 = 8;
/// Packet types from the kernel's `linux/if_packet.h`. `PACKET_LOOPBACK` marks the local copy
/// of a frame that this host broadcasts.
const PACKET_BROADCAST: u32 = 1;
const PACKET_LOOPBACK: u32 = 5;
/// Offsets in bytes of the destination address in the IPv4 and IPv6 headers.
const IPV4_DESTINATION: libc::c_int = 16;
const IPV6_DESTINATION: libc::c_int = 24;
/// An IPv4 address is multicast or broadcast if its first byte is at least this value.
const IPV4_MULTICAST: u32 = 224;
/// The first byte of an IPv6 multicast address.
const IPV6_MULTICAST: u32 = 0xff;
/// The index of the loopback interface in every network namespace.
const LOOPBACK: u32 = 1;
const HEADER: u32 = size_of::<abi::laminar_header>() as u32;
const MAGIC: u32 = std::mem::offset_of!(abi::laminar_header, magic) as u32;
const PARTITION_KEY: u32 = std::mem::offset_of!(abi::laminar_header, partition_key) as u32;
const PAYLOAD_LEN: u32 = std::mem::offset_of!(abi::laminar_header, payload_len) as u32;

/// Where a jump goes.
#[derive(Clone, Copy)]
enum To {
    /// The next instruction.
    Next,
    /// The label with this name. The label must come after the jump.
    Label(&'static str),
    Accept,
    Drop,
}

/// A filter under construction. Jumps name their targets; [`Filter::build`] converts the
/// names into distances.
#[derive(Default)]
struct Filter {
    code: Vec<(u32, u32, To, To)>,
    labels: Vec<(&'static str, usize)>,
}

impl Filter {
    fn step(mut self, code: u32, k: u32) -> Filter {
        self.code.push((code, k, To::Next, To::Next));
        self
    }

    /// Jumps to `yes` if the condition holds, else to `no`.
    fn jump(mut self, code: u32, k: u32, yes: To, no: To) -> Filter {
        self.code.push((code, k, yes, no));
        self
    }

    fn label(mut self, name: &'static str) -> Filter {
        self.labels.push((name, self.code.len()));
        self
    }

    /// Adds the instructions for [`To::Accept`] and [`To::Drop`] and resolves the jumps. A jump
    /// to a label that does not exist goes to [`To::Drop`].
    fn build(self) -> Vec<Instruction> {
        let (accept, drop) = (self.code.len(), self.code.len() + 1);
        let position = |at: usize, to: To| match to {
            To::Next => at + 1,
            To::Label(name) => {
                let label = self.labels.iter().find(|(other, _)| *other == name);
                label.map_or(drop, |(_, position)| *position)
            }
            To::Accept => accept,
            To::Drop => drop,
        };
        let distance = |at: usize, to: To| (position(at, to) - at - 1) as u8;
        let code = self.code.iter().enumerate();
        let code = code.map(|(at, &(code, k, yes, no))| Instruction {
            code: code as u16,
            jt: distance(at, yes),
            jf: distance(at, no),
            k,
        });
        let ends = [WHOLE_DATAGRAM, 0].map(|length| instruction(RETURN, length));
        code.chain(ends).collect()
    }
}

/// Builds a filter that drops everything.
pub fn closed() -> Vec<Instruction> {
    vec![instruction(RETURN, 0)]
}

/// The programs of a group of sockets.
#[derive(Debug)]
pub struct ClassicPrograms {
    /// Selects the socket of a datagram.
    pub selector: Vec<Instruction>,
    /// The filter of each socket.
    pub filter: Vec<Instruction>,
}

impl ClassicPrograms {
    /// The pattern names every setting that sockets enforce. A new
    /// setting is a compile error here until a program uses it.
    pub fn new(cpus: u32, settings: SocketSettings) -> ClassicPrograms {
        let SocketSettings { partitions } = settings;
        ClassicPrograms { selector: selector(cpus, partitions), filter: filter() }
    }
}

/// Builds the filter of each socket. The filter drops the same invalid datagrams as XDP. It also
/// drops datagrams to broadcast and multicast addresses, because the kernel gives every socket of
/// the group a copy of such a datagram. In this program, offset 0 is the start of the UDP header.
fn filter() -> Vec<Instruction> {
    Filter::default()
        .step(LOAD_LENGTH, 0)
        .jump(AT_LEAST, UDP_HEADER + HEADER, To::Next, To::Drop)
        .step(SUBTRACT, UDP_HEADER + HEADER)
        .step(A_TO_X, 0)
        .step(LOAD, UDP_HEADER + MAGIC)
        .jump(EQUAL, abi::LAMINAR_MAGIC, To::Next, To::Drop)
        .step(LOAD, UDP_HEADER + PAYLOAD_LEN)
        .jump(EQUAL_X, 0, To::Next, To::Drop)
        // A subnet's broadcast address looks like a unicast address, so the filter checks the
        // packet type instead.
        .step(LOAD, relative(libc::SKF_AD_OFF, libc::SKF_AD_PKTTYPE))
        .jump(EQUAL, PACKET_BROADCAST, To::Drop, To::Next)
        .jump(EQUAL, PACKET_LOOPBACK, To::Drop, To::Next)
        .step(LOAD, relative(libc::SKF_AD_OFF, libc::SKF_AD_PROTOCOL))
        .jump(EQUAL, libc::ETH_P_IPV6 as u32, To::Label("IPv6"), To::Next)
        .step(LOAD_BYTE, relative(libc::SKF_NET_OFF, IPV4_DESTINATION))
        .jump(AT_LEAST, IPV4_MULTICAST, To::Drop, To::Accept)
        .label("IPv6")
        .step(LOAD_BYTE, relative(libc::SKF_NET_OFF, IPV6_DESTINATION))
        .jump(EQUAL, IPV6_MULTICAST, To::Drop, To::Accept)
        .build()
}

/// Builds the filter of a packet socket that waits for one marker frame. The filter accepts frames
/// on the loopback interface that have this number after the Ethernet header.
pub fn marker_frame(number: u64) -> Vec<Instruction> {
    Filter::default()
        .step(LOAD, relative(libc::SKF_AD_OFF, libc::SKF_AD_IFINDEX))
        .jump(EQUAL, LOOPBACK, To::Next, To::Drop)
        .step(LOAD, 0)
        .jump(EQUAL, (number >> 32) as u32, To::Next, To::Drop)
        .step(LOAD, 4)
        .jump(EQUAL, number as u32, To::Accept, To::Drop)
        .build()
}

/// Builds the program that selects a socket of the group. The program returns the position of the
/// socket that belongs to the partition's first owner. In this program, offset 0 is the start of
/// the UDP payload.
fn selector(cpus: u32, partitions: u32) -> Vec<Instruction> {
    vec![
        instruction(LOAD, PARTITION_KEY),
        instruction(MODULO, partitions),
        instruction(MODULO, cpus),
        instruction(RETURN_A, 0),
    ]
}

fn instruction(code: u32, k: u32) -> Instruction {
    Instruction { code: code as u16, jt: 0, jf: 0, k }
}

/// An offset that the kernel counts from `base` instead of the start of the data.
fn relative(base: libc::c_int, offset: libc::c_int) -> u32 {
    (base + offset) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jumps_reach_their_labels() {
        let filter = filter();
        let targets = |code: u32| {
            let mut jumps = filter.iter().enumerate().filter(move |(_, i)| i.code == code as u16);
            jumps.next().map(|(at, jump)| (at + 1 + jump.jt as usize, at + 1 + jump.jf as usize))
        };
        let drop = filter.len() - 1;
        assert_eq!(filter[drop].k, 0);
        assert_eq!(filter[drop - 1].k, WHOLE_DATAGRAM);
        assert_eq!(targets(AT_LEAST), Some((2, drop)), "the length");
        assert_eq!(targets(EQUAL_X), Some((8, drop)), "the payload length");
        let ipv6 = filter.iter().position(|i| i.k == libc::ETH_P_IPV6 as u32).unwrap();
        let label = ipv6 + 1 + filter[ipv6].jt as usize;
        assert_eq!(filter[label].k, relative(libc::SKF_NET_OFF, IPV6_DESTINATION));
        let last = &filter[label + 1];
        assert_eq!((last.jt, last.jf), (1, 0), "multicast drops, all else is accepted");
    }
}
