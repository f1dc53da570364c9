//! Real datagrams from ordinary sockets: which datagrams arrive, and how each kind is counted.

use anyhow::Result;
use laminar_xdp::{XdpAttachMode, XdpStats};
use testbed::frame::{self, datagram};
use testbed::{RxCpuSockets, TestNet, bpf};
use xshell::{Shell, cmd};

use crate::support::{
    config, load, object_of, online_cpus, prebuilt, program_of, steering_modes, targets, tests,
};

tests! {
    Root:
        native_mode_filters_and_counts_exactly,
        generic_mode_filters_and_counts_exactly,
        statistics_belong_to_one_loader,
        statistics_are_summed_over_cpus,
        objects_attached_by_ip_link_filter_without_configuration;
}

const KEYS: u32 = 8;
const EACH: u32 = 25;

/// Sends a known mixture of datagrams. Checks that only valid datagrams reach the sockets, and
/// that the statistics match the mixture exactly.
fn check_mixture(mode: XdpAttachMode) -> Result<()> {
    let net = TestNet::new()?;
    let rx_cpus = net.receiver.enter(|| RxCpuSockets::bind(TestNet::destination(9999)))?;
    let other = net.receiver.enter(|| RxCpuSockets::bind(TestNet::destination(9998)))?;
    let loader = load(&net, &config().attach_mode(mode).build()?, &online_cpus())?;
    assert_eq!(loader.mode(), mode);
    let steers = steering_modes().contains(&mode);
    assert_eq!(loader.steers(), steers, "{}", loader.selection());

    let sender = net.sending_socket()?;
    let large = datagram(3, &[7; 4000]);
    let (mut valid, mut reassembled, mut received) = (0, 0, 0usize);
    let mut seen = |_, bytes: &[u8]| match bytes == large {
        true => reassembled += 1,
        false => valid += (bytes.starts_with(b"LAMI") && bytes.len() == 16) as u32,
    };
    for i in 0..EACH {
        for key in 0..KEYS {
            sender.send_to(&datagram(key, &i.to_be_bytes()), TestNet::destination(9999))?;
        }
        sender.send_to(b"IMAL in front of something", TestNet::destination(9999))?;
        sender.send_to(b"LAMI", TestNet::destination(9999))?;
        sender.send_to(&[&datagram(1, b"abc")[..], b"d"].concat(), TestNet::destination(9999))?;
        sender.send_to(b"not ours", TestNet::destination(9998))?;
        // The ring of a veth device holds 256 packets. Receive this round before sending the next
        // round, so that the ring does not overflow.
        received += rx_cpus.receive(KEYS as usize, &mut seen)?;
    }
    sender.send_to(&large, TestNet::destination(9999))?;
    net.raw_socket()?.send(&frame::with_udp_length(frame::udp(9999, &datagram(1, b"x")), 4))?;
    received += rx_cpus.receive(1, &mut seen)? + rx_cpus.receive_rest(&mut seen)?;
    assert_eq!(received, (EACH * KEYS + 1) as usize, "only valid datagrams must arrive");
    assert_eq!((valid, reassembled), (EACH * KEYS, 1));
    let others = other.receive(EACH as usize, |_, _| {})? + other.receive_rest(|_, _| {})?;
    assert_eq!(others, EACH as usize, "datagrams to another port must all arrive");

    let mut sent = XdpStats::default();
    let valid = u64::from(EACH * KEYS);
    (sent.redirected, sent.passed_no_queue) = if steers { (valid, 0) } else { (0, valid) };
    sent.dropped_magic = u64::from(EACH);
    sent.dropped_short = u64::from(EACH);
    sent.dropped_length = u64::from(EACH);
    sent.dropped = 3 * u64::from(EACH);
    sent.passed_fragment = 3; // 4020 bytes with an MTU of 1500
    sent.passed = sent.passed_fragment + sent.passed_no_queue;
    sent.invalid = 1;
    assert_eq!(loader.stats()?, sent);
    Ok(())
}

fn native_mode_filters_and_counts_exactly() -> Result<()> {
    check_mixture(XdpAttachMode::Native)
}

fn generic_mode_filters_and_counts_exactly() -> Result<()> {
    check_mixture(XdpAttachMode::Generic)
}

/// The statistics start at zero with each load. Each interface has its own statistics.
fn statistics_belong_to_one_loader() -> Result<()> {
    let (one, two) = (TestNet::new()?, TestNet::new()?);
    let config = config().build()?;
    let loader_of_one = load(&one, &config, &online_cpus())?;
    let loader_of_two = load(&two, &config, &online_cpus())?;
    one.sending_socket()?.send_to(b"junk", TestNet::destination(9999))?;
    assert_eq!(loader_of_one.stats()?.dropped, 1);
    assert_eq!(loader_of_two.stats()?, XdpStats::default());
    drop(loader_of_one);
    assert_eq!(load(&one, &config, &online_cpus())?.stats()?, XdpStats::default());
    Ok(())
}

fn statistics_are_summed_over_cpus() -> Result<()> {
    let net = TestNet::new()?;
    let loader = load(&net, &config().build()?, &online_cpus())?;
    let program = program_of(&loader)?;
    for (runs, cpu) in (1u32..).zip(online_cpus()) {
        let run = || bpf::run(&program, &frame::udp(9999, b"junk"), runs);
        testbed::on_cpu(cpu, run)?.map(drop)?;
    }
    let cpus = online_cpus().len() as u64;
    assert_eq!(loader.stats()?.dropped_short, cpus * (cpus + 1) / 2);
    Ok(())
}

/// If `ip link` attaches an object, the program filters port 9999 and passes every valid packet.
fn objects_attached_by_ip_link_filter_without_configuration() -> Result<()> {
    for &target in targets() {
        let object = prebuilt().join(object_of(target));
        let section = if target == "linux-5.18" { "xdp.frags" } else { "xdp" };
        for mode in ["xdpdrv", "xdpgeneric"] {
            let net = TestNet::new()?;
            let rx_cpus = net.receiver.enter(|| RxCpuSockets::bind(TestNet::destination(9999)))?;
            let other = net.receiver.enter(|| RxCpuSockets::bind(TestNet::destination(9998)))?;
            let attached = net.receiver.enter(|| -> Result<bool> {
                let (shell, interface) = (Shell::new()?, TestNet::INTERFACE);
                let ip =
                    cmd!(shell, "ip link set dev {interface} {mode} obj {object} sec {section}");
                Ok(ip.quiet().ignore_stderr().run().is_ok())
            })?;
            // Before Linux 5.15, generic mode loses redirected packets. These kernels therefore
            // refuse to attach a program in generic mode if the CPU map of the program has 8-byte
            // values.
            let refused =
                mode == "xdpgeneric" && target == "linux-5.9" && steering_modes().len() < 2;
            assert_eq!(attached, !refused, "{target} {mode}");
            if refused {
                continue;
            }
            let sender = net.sending_socket()?;
            let (mut received, mut valid) = (0usize, 0);
            let mut seen = |_, bytes: &[u8]| valid += bytes.ends_with(b"valid") as u32;
            for key in 0..100 {
                sender.send_to(&datagram(key, b"valid"), TestNet::destination(9999))?;
                sender.send_to(b"long enough, but junk", TestNet::destination(9999))?;
                sender.send_to(b"junk", TestNet::destination(9999))?;
                sender.send_to(b"junk", TestNet::destination(9998))?;
                received += rx_cpus.receive(1, &mut seen)?;
            }
            received += rx_cpus.receive_rest(&mut seen)?;
            assert_eq!((received, valid), (100, 100), "{target} {mode}");
            let others = other.receive(100, |_, _| {})? + other.receive_rest(|_, _| {})?;
            assert_eq!(others, 100, "{target} {mode}");
        }
    }
    Ok(())
}
