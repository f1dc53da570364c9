//! Classic BPF for kernels or users that may not load programs: no rights, no maps, no
//! counters. The kernel verifies and copies what is made here.

use crate::kernel::libbpf::socket::ClassicInstruction as Instruction;
use laminar_xdp_prebuilt::abi;

const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
const LOAD_BYTE: u32 = libc::BPF_LD | libc::BPF_B | libc::BPF_ABS;
const LOAD_LENGTH: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_LEN;
const TO_X: u32 = libc::BPF_MISC | libc::BPF_TAX;
const SUBTRACT: u32 = libc::BPF_ALU | libc::BPF_SUB | libc::BPF_K;
const MODULO: u32 = libc::BPF_ALU | libc::BPF_MOD | libc::BPF_K;
const IF_EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
const IF_EQUAL_X: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_X;
const IF_AT_LEAST: u32 = libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K;
const RETURN: u32 = libc::BPF_RET | libc::BPF_K;
const RETURN_A: u32 = libc::BPF_RET | libc::BPF_A;

const WHOLE_DATAGRAM: u32 = u32::MAX;
const UDP_HEADER: u32 = 8;
/// Of the kernel's `linux/if_packet.h`; the second is a copy of what this host broadcasts.
const PACKET_BROADCAST: u32 = 1;
const PACKET_LOOPBACK: u32 = 5;
/// Where a destination address begins in its header.
const IPV4_DESTINATION: libc::c_int = 16;
const IPV6_DESTINATION: libc::c_int = 24;
const HEADER: u32 = size_of::<abi::laminar_header>() as u32;
const MAGIC_AT: u32 = std::mem::offset_of!(abi::laminar_header, magic) as u32;
const PARTITION_KEY_AT: u32 = std::mem::offset_of!(abi::laminar_header, partition_key) as u32;
const PAYLOAD_LEN_AT: u32 = std::mem::offset_of!(abi::laminar_header, payload_len) as u32;

fn instruction(code: u32, k: u32) -> Instruction {
    jump(code, k, 0, 0)
}

/// Skips `yes` instructions if the condition holds, else `no`.
fn jump(code: u32, k: u32, yes: u8, no: u8) -> Instruction {
    Instruction { code: code as u16, jt: yes, jf: no, k }
}

/// A filter that takes nothing.
pub fn closed() -> Vec<Instruction> {
    vec![instruction(RETURN, 0)]
}

/// The filter on each socket: what XDP drops, it drops, and what the kernel gives to every
/// socket, because it is for a broadcast or multicast address. Its data begin with the UDP
/// header.
pub fn filter() -> Vec<Instruction> {
    vec![
        instruction(LOAD_LENGTH, 0),
        jump(IF_AT_LEAST, UDP_HEADER + HEADER, 0, 16),
        instruction(SUBTRACT, UDP_HEADER + HEADER),
        instruction(TO_X, 0),
        instruction(LOAD, UDP_HEADER + MAGIC_AT),
        jump(IF_EQUAL, abi::LAMINAR_MAGIC, 0, 12),
        instruction(LOAD, UDP_HEADER + PAYLOAD_LEN_AT),
        jump(IF_EQUAL_X, 0, 0, 10),
        // A network's own broadcast address is like any other, but the frame's is not.
        instruction(LOAD, from(libc::SKF_AD_OFF, libc::SKF_AD_PKTTYPE)),
        jump(IF_EQUAL, PACKET_BROADCAST, 8, 0),
        jump(IF_EQUAL, PACKET_LOOPBACK, 7, 0),
        instruction(LOAD, from(libc::SKF_AD_OFF, libc::SKF_AD_PROTOCOL)),
        jump(IF_EQUAL, libc::ETH_P_IPV6 as u32, 2, 0),
        instruction(LOAD_BYTE, from(libc::SKF_NET_OFF, IPV4_DESTINATION)),
        jump(IF_AT_LEAST, 224, 3, 2),
        instruction(LOAD_BYTE, from(libc::SKF_NET_OFF, IPV6_DESTINATION)),
        jump(IF_EQUAL, 0xff, 1, 0),
        instruction(RETURN, WHOLE_DATAGRAM),
        instruction(RETURN, 0),
    ]
}

/// The filter of a packet socket that waits for one frame of our own: on the loopback
/// interface, which is always the first, and with this number behind its header.
pub fn loopback_frame(number: u64) -> Vec<Instruction> {
    vec![
        instruction(LOAD, from(libc::SKF_AD_OFF, libc::SKF_AD_IFINDEX)),
        jump(IF_EQUAL, 1, 0, 5),
        instruction(LOAD, 0),
        jump(IF_EQUAL, (number >> 32) as u32, 0, 3),
        instruction(LOAD, 4),
        jump(IF_EQUAL, number as u32, 0, 1),
        instruction(RETURN, WHOLE_DATAGRAM),
        instruction(RETURN, 0),
    ]
}

/// An offset that the kernel takes from elsewhere than the data's start.
fn from(base: libc::c_int, offset: libc::c_int) -> u32 {
    (base + offset) as u32
}

/// Chooses a socket by its place in the group, which is its core's among the cores: where
/// partitions start. Its data begin with the payload.
pub fn selection(cores: u32, partitions: u32) -> Vec<Instruction> {
    vec![
        instruction(LOAD, PARTITION_KEY_AT),
        instruction(MODULO, partitions),
        instruction(MODULO, cores),
        instruction(RETURN_A, 0),
    ]
}
