//! Filters and steers real datagrams, and shows every number.
//!
//! Creates two network namespaces with a veth pair between them, attaches the XDP program, and
//! sends a known mixture of datagrams from ordinary sockets. Compares the counters and the
//! received datagrams with the datagrams that were sent, and fails if any number differs.
//!
//! File descriptors of this process hold the namespaces and the program. When the process ends, the
//! kernel closes the descriptors, and so removes the namespaces and the program. This also works if
//! the process is interrupted.

use std::collections::BTreeMap;
use std::net::UdpSocket;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use laminar_xdp::{LaminarHeader, XdpAttachMode, XdpConfig, XdpLoader, XdpStats};
use testbed::frame::datagram;
use testbed::{RxCpuSockets, TestNet};

const PORT: u16 = 9999;
const OTHER_PORT: u16 = 9998;
const PARTITIONS: u32 = 8;
/// The number of datagrams of each invalid kind, and the number of valid datagrams for each
/// partition.
const EACH: u64 = 100;
/// The payload of the fragmented datagram, in bytes.
const LARGE: usize = 4000;
/// The number of fragments of the large datagram. With an MTU of 1500 bytes, each fragment carries
/// at most 1480 bytes after its IP header.
const FRAGMENTS: u64 = ((LARGE + LaminarHeader::SIZE + 8) as u64).div_ceil(1480);

fn main() -> ExitCode {
    if let Some(missing) = testbed::missing_privileges() {
        eprintln!("error: the demo {missing} to create network namespaces and load XDP programs");
        return ExitCode::FAILURE;
    }
    match demo() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            eprintln!("error: some numbers are not the expected ones; see the lines marked WRONG");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn demo() -> Result<bool> {
    let net = TestNet::new().context("cannot create two namespaces and a veth pair")?;
    let rx_cpus = net.receiver.enter(|| RxCpuSockets::bind(TestNet::destination(PORT)))?;
    let other = net.receiver.enter(|| RxCpuSockets::bind(TestNet::destination(OTHER_PORT)))?;

    let mut cpus = testbed::online_cpus();
    cpus.truncate(PARTITIONS as usize);
    let config = XdpConfig::builder()
        .enabled(true)
        .interface(TestNet::INTERFACE)
        // Use the objects of this checkout, not the objects that an installed package may provide.
        .bpf_object_path("bpf-prebuilt")
        .port(PORT)
        .attach_mode(XdpAttachMode::Native)
        .partitions(PARTITIONS.next_multiple_of(cpus.len() as u32))
        .build()?;
    let loader = net.receiver.enter(|| XdpLoader::load_and_attach(&config, &cpus))?;
    println!("{}\n", loader.selection());

    let mut arrivals = Arrivals::default();
    let sender = net.sending_socket()?;
    for _ in 0..EACH {
        send_one_of_each(&sender)?;
        // The ring of a veth device holds 256 packets. Receive this round before sending the next
        // round, so that the ring does not overflow.
        rx_cpus.receive(PARTITIONS as usize, |cpu, datagram| arrivals.add(cpu, datagram))?;
    }
    sender.send_to(&datagram(0, &[7; LARGE]), TestNet::destination(PORT))?;
    rx_cpus.receive(1, |cpu, datagram| arrivals.add(cpu, datagram))?;
    // Receive any datagrams that should not have arrived, so that `arrivals` counts them.
    rx_cpus.receive_rest(|cpu, datagram| arrivals.add(cpu, datagram))?;
    let others = other.receive(EACH as usize, |_, _| {})? + other.receive_rest(|_, _| {})?;

    let verdicts_right = print_verdicts(&loader.stats()?, others as u64, arrivals.large);
    let partitions_right = print_partitions(&arrivals, &cpus, loader.partitions());
    loader.detach()?;
    ensure!(!net.carries_xdp()?, "the program is still attached after detach");
    println!("\ndetached: the interface has no program");
    Ok(verdicts_right && partitions_right)
}

fn send_one_of_each(socket: &UdpSocket) -> Result<()> {
    let ours = TestNet::destination(PORT);
    let mut wrong_magic = datagram(1, b"junk");
    wrong_magic[0] = b'X';
    let too_short = &datagram(1, b"")[..LaminarHeader::SIZE - 1];
    let wrong_length = [datagram(1, b"four"), b"!".to_vec()].concat();
    for partition in 0..PARTITIONS {
        socket.send_to(&datagram(partition, b"hello"), ours)?;
    }
    socket.send_to(&wrong_magic, ours)?;
    socket.send_to(too_short, ours)?;
    socket.send_to(&wrong_length, ours)?;
    socket.send_to(b"another port's", TestNet::destination(OTHER_PORT))?;
    Ok(())
}

/// The datagrams that reached the sockets.
#[derive(Default)]
struct Arrivals {
    /// The number of datagrams by partition key and CPU.
    by_partition: BTreeMap<u32, BTreeMap<usize, u64>>,
    /// How often the fragmented datagram arrived, reassembled.
    large: u64,
    /// The number of datagrams that should not have arrived.
    junk: u64,
}

impl Arrivals {
    fn add(&mut self, cpu: usize, datagram: &[u8]) {
        match LaminarHeader::from_bytes(datagram) {
            Some(header) if header.validate() && datagram.len() > LARGE => self.large += 1,
            Some(header) if header.validate() && datagram.ends_with(b"hello") => {
                let cpus = self.by_partition.entry(header.partition_key).or_default();
                *cpus.entry(cpu).or_default() += 1;
            }
            _ => self.junk += 1,
        }
    }
}

fn mark(right: bool) -> &'static str {
    if right { "" } else { "  WRONG" }
}

fn print_verdicts(stats: &XdpStats, others: u64, large: u64) -> bool {
    let valid = EACH * u64::from(PARTITIONS);
    let rows = [
        ("valid, 8 partitions", valid, "redirected", stats.redirected, valid),
        ("wrong magic", EACH, "dropped, magic", stats.dropped_magic, EACH),
        ("too short", EACH, "dropped, short", stats.dropped_short, EACH),
        ("wrong length", EACH, "dropped, length", stats.dropped_length, EACH),
        ("valid, fragmented", 1, "passed, fragment", stats.passed_fragment, FRAGMENTS),
        ("  reassembled", 1, "received", large, 1),
        ("another port", EACH, "received", others, EACH),
        ("malformed", 0, "invalid", stats.invalid, 0),
        ("", 0, "all counters", stats.total(), valid + 3 * EACH + FRAGMENTS),
    ];
    println!("{:<24}{:>10}   {:<20}{:>10}", "sent", "datagrams", "answer", "packets");
    let mut all_right = true;
    for (what, sent, answer, counted, expected) in rows {
        let right = counted == expected;
        all_right &= right;
        let sent = if what.is_empty() { String::new() } else { sent.to_string() };
        println!("{what:<24}{sent:>10}   {answer:<20}{counted:>10}{}", mark(right));
    }
    all_right
}

fn print_partitions(arrivals: &Arrivals, cpus: &[u32], partitions: u32) -> bool {
    print!("\n{:<12}{:>8}{:>8}   received on", "partition", "owner", "sent");
    cpus.iter().for_each(|cpu| print!("{:>9}", format!("CPU {cpu}")));
    println!();
    let mut all_right = arrivals.junk == 0;
    for key in 0..PARTITIONS {
        let owner = cpus[(key % partitions) as usize % cpus.len()] as usize;
        let empty = BTreeMap::new();
        let received = arrivals.by_partition.get(&key).unwrap_or(&empty);
        let right = *received == BTreeMap::from([(owner, EACH)]);
        all_right &= right;
        print!("{key:<12}{:>8}{EACH:>8}   {:11}", format!("CPU {owner}"), "");
        for cpu in cpus {
            print!("{:>9}", received.get(&(*cpu as usize)).unwrap_or(&0));
        }
        println!("{}", mark(right));
    }
    if arrivals.junk > 0 {
        println!("junk that arrived: {}  WRONG", arrivals.junk);
    }
    all_right
}
