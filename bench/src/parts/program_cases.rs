//! The packets and the configurations that the part `programs` measures.

use std::net::IpAddr;

use anyhow::Result;
use laminar_xdp::{SourceLimit, SourceLists, XdpConfig, XdpConfigBuilder};
use laminar_xdp_prebuilt::{ByteOrder, Layer, Manifest, embedded};
use testbed::bpf::{XDP_DROP, XDP_PASS, XDP_REDIRECT};
use testbed::{TestNet, frame};

use crate::harness::rx_interface::PORT;

/// The target whose object is measured in every case that needs no optional feature of laminar-xdp.
pub const DEFAULT: &str = "linux-5.9";

/// The cases in which every object of laminar-xdp is measured.
pub const COMMON: [&str; 3] = ["drop: wrong magic", "redirect: valid", "pass: another port"];

const DENIED: &str = "drop: denied";
const RATE: &str = "drop: rate";

/// A packet, and the verdict that laminar-xdp returns for it.
pub struct Case {
    /// The name of the case.
    pub name: &'static str,
    /// The Ethernet frame.
    pub frame: Vec<u8>,
    /// The XDP verdict.
    pub verdict: u32,
}

impl Case {
    /// Whether the program returns this case's verdict only if a feature is on that is off by
    /// default.
    pub fn needs_feature(&self) -> bool {
        [DENIED, RATE].contains(&self.name)
    }
}

/// Returns one case for each path through the program.
pub fn cases() -> Vec<Case> {
    let junk = b"a payload that is long enough but no LaminarDB datagram";
    let valid = frame::datagram(7, b"forty bytes of payload, as most are long");
    let udp = |payload: &[u8]| frame::udp(PORT, payload);
    let mut wrong_length = valid.clone();
    wrong_length[11] += 1;
    let mut not_ip = udp(&valid);
    not_ip[12..14].copy_from_slice(&[0x08, 0x06]);
    let denied: IpAddr = [198, 51, 42, 7].into();
    let case = |name, verdict, frame| Case { name, frame, verdict };
    vec![
        case(COMMON[0], XDP_DROP, udp(junk)),
        case(COMMON[1], XDP_REDIRECT, udp(&valid)),
        case(COMMON[2], XDP_PASS, frame::udp(PORT + 1, &valid)),
        case("drop: short", XDP_DROP, udp(b"short")),
        case("drop: wrong length", XDP_DROP, udp(&wrong_length)),
        case("drop: magic, IPv6", XDP_DROP, frame::udp_ipv6(PORT, junk, &[])),
        case("drop: magic, one VLAN tag", XDP_DROP, frame::tagged(&udp(junk), &[0x8100])),
        case("pass: not IP", XDP_PASS, not_ip),
        case("pass: fragment", XDP_PASS, frame::fragment(PORT, &valid, 0, true)),
        case("pass: invalid", XDP_PASS, frame::with_udp_length(udp(&valid), 7)),
        case(DENIED, XDP_DROP, frame::udp_from(denied, PORT, &valid)),
        case(RATE, XDP_DROP, frame::udp_from([192, 0, 2, 77].into(), PORT, &valid)),
    ]
}

/// Returns the configuration that all measurements of a target share.
pub fn config(target: &str) -> XdpConfigBuilder {
    XdpConfig::builder()
        .enabled(true)
        .interface(TestNet::INTERFACE)
        .port(PORT)
        .bpf_object_path("/nonexistent")
        .force_target(target)
}

/// The name of a feature, a configuration with this feature, and the names of the cases in which
/// that configuration is measured.
pub type Feature = (&'static str, XdpConfigBuilder, Vec<&'static str>);

/// Returns several configurations with one feature each, and one configuration with several
/// features.
pub fn features() -> Result<Vec<Feature>> {
    // This limit drops no packet: one test run stays within the burst, and the buckets refill while
    // the test runs of other programs take place.
    let limit =
        SourceLimit::per_second(SourceLimit::MAX_PACKETS_PER_SECOND).burst(SourceLimit::MAX_BURST);
    // The list contains the sender of the case "drop: denied", and it does not contain the sender
    // of the other cases.
    let deny =
        (0..100).map(|i| format!("198.51.{i}.0/24").parse()).collect::<Result<Vec<_>, _>>()?;
    let lists = SourceLists::new().deny(deny);
    let ports: Vec<u16> = (1..15).chain([PORT]).collect();
    let tight = SourceLimit::per_second(1).burst(1);
    let new = || config(DEFAULT);
    let common = || COMMON.to_vec();
    let all = new().source_lists(lists.clone()).source_limit(limit).drop_samples(1000);
    Ok(vec![
        ("16 ports, the last one matches", new().port(PORT - 1).more_ports(ports), common()),
        ("deny list of 100", new().source_lists(lists), [common(), vec![DENIED]].concat()),
        ("limit", new().source_limit(limit), common()),
        ("limit of 1 a second", new().source_limit(tight), vec![RATE]),
        ("samples, 1 in 1000", new().drop_samples(1000), common()),
        ("deny list, limit, samples", all, common()),
    ])
}

/// Returns the targets of the XDP objects in this machine's byte order, the best one first.
pub fn targets() -> Result<Vec<String>> {
    let objects = Manifest::parse(embedded::MANIFEST)?.objects.into_iter();
    let ours =
        objects.filter(|object| object.layer == Layer::Xdp && object.byte_order == ByteOrder::HOST);
    Ok(ours.map(|object| object.target).collect())
}
