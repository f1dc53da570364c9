//! Which datagrams receivers get, and how ingest counts each kind of datagram.

use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;

use anyhow::{Context, Result, ensure};
use laminar_xdp::{Ingest, IngestConfig, IngestStats, Layer, XdpReason};
use socket2::SockRef;
use testbed::frame::{datagram, udp_to};
use testbed::{TestNet, kernel};

use crate::support::{
    ObjectSet, PORT, Way, all_at_owners, config, drain, keep_only, loopback, open, receivers,
    sockets_only, steering_modes, tests, two_cpus, ways,
};

tests! {
    Root:
        xdp_judges_and_steers_ipv6,
        sockets_count_every_reason_of_their_layer_and_no_other;
    Namespaces:
        junk_is_counted_alike_in_every_mode,
        unspecified_address_receives_both_ip_versions,
        broadcast_and_multicast_are_counted_and_not_received,
        merged_datagrams_reach_the_owners_of_their_partitions;
}

fn junk_is_counted_alike_in_every_mode() -> Result<()> {
    let objects = ObjectSet::without_sockets_object()?;
    for (way, _) in ways() {
        let net = TestNet::new()?;
        let ingest = way.open(&net.receiver, &IngestConfig::new(two_cpus()), &objects)?;
        let sender = net.sending_socket()?;
        let send = |bytes: &[u8]| sender.send_to(bytes, TestNet::destination(PORT));
        let mut wrong_magic = datagram(1, b"junk");
        wrong_magic[3] = 0;
        for number in 0..10u8 {
            send(&datagram(number.into(), &[number]))?;
            send(&wrong_magic)?;
            send(&wrong_magic)?;
            send(&datagram(1, b"")[..11])?;
            send(b"")?;
            send(&[&datagram(1, b"four")[..], b"!"].concat())?;
            send(&datagram(1, b"four")[..15])?;
        }
        // The next two datagrams are sent in fragments. XDP passes the fragments to the stack,
        // which reassembles each datagram. The sockets then validate the datagram.
        send(&datagram(3, &[7; 4000]))?;
        send(&vec![0; 4000])?;
        let received = drain(&mut receivers(&ingest)?)?;
        assert_eq!(received.len(), 11, "{way:?}");
        assert!(all_at_owners(&received), "{way:?}");
        let stats = ingest.stats()?;
        let verdicts = stats.verdicts;
        let reasons = (verdicts.dropped_magic, verdicts.dropped_short, verdicts.dropped_length);
        match way {
            Way::Classic => {
                assert_eq!((verdicts.dropped, verdicts.dropped_unsorted), (61, 61), "{stats:?}");
                assert_eq!((reasons, stats.overflowed), ((0, 0, 0), None));
            }
            // XDP counted each dropped datagram by its reason, except the fragmented datagram.
            Way::XdpAndClassic => {
                assert_eq!((verdicts.dropped, verdicts.dropped_unsorted), (61, 1), "{stats:?}");
                assert_eq!(reasons, (20, 20, 20));
            }
            _ => {
                assert_eq!((verdicts.dropped, verdicts.dropped_unsorted), (61, 0), "{stats:?}");
                assert_eq!(reasons, (21, 20, 20), "{way:?}");
                assert_eq!((stats.accepted, stats.overflowed), (Some(11), Some(0)));
            }
        }
    }
    Ok(())
}

/// When a reason is added, `XdpReason::layers` must say whether the sockets count it.
fn sockets_count_every_reason_of_their_layer_and_no_other() -> Result<()> {
    let objects = ObjectSet::without_sockets_object()?;
    let valid = datagram(1, b"four");
    let wrong_magic = [b"IMAL", &valid[4..]].concat();
    for way in [Way::Sockets, Way::Classic] {
        let net = TestNet::new()?;
        let mut to = IngestConfig::new(two_cpus());
        to.address = "0.0.0.0".parse()?;
        let ingest = way.open(&net.receiver, &to, &objects)?;
        let sender = net.sending_socket()?;
        sender.set_broadcast(true)?;
        for (bytes, destination) in [
            (&valid[..], TestNet::destination(PORT)),
            (&valid[..11], TestNet::destination(PORT)),
            (&valid[..15], TestNet::destination(PORT)),
            (&wrong_magic, TestNet::destination(PORT)),
            (&valid, "192.0.2.255:9999".parse()?),
        ] {
            sender.send_to(bytes, destination)?;
        }
        // Both kinds of filters accept the same datagrams.
        assert_eq!(drain(&mut receivers(&ingest)?)?.len(), 1, "{way:?}");
        let verdicts = ingest.stats()?.verdicts;
        if ingest.classic_bpf_reason().is_some() {
            // Classic BPF counts no reasons. Each of the two sockets dropped the broadcast.
            assert_eq!((verdicts.dropped, verdicts.dropped_unsorted), (5, 5), "{way:?}");
            continue;
        }
        // Without XDP, this counter equals the number of accepted datagrams.
        assert_eq!(verdicts.passed_no_queue, verdicts.accepted);
        for &reason in XdpReason::ALL.iter().filter(|r| **r != XdpReason::PassedNoQueue) {
            let is_counted = reason.layers().contains(&Layer::Sockets);
            assert_eq!(verdicts.get(reason) > 0, is_counted, "{reason}: {verdicts}");
        }
    }
    Ok(())
}

/// The address `::` receives both IP versions. Every other address receives only its own IP
/// version.
fn unspecified_address_receives_both_ip_versions() -> Result<()> {
    let unspecified = "::";
    for (address, classic, senders) in [
        (unspecified, false, &["[::1]:0", "127.0.0.1:0"][..]),
        (unspecified, true, &["[::1]:0", "127.0.0.1:0"]),
        ("0.0.0.0", false, &["127.0.0.1:0"]),
        ("::1", false, &["[::1]:0"]),
    ] {
        let (namespace, mut to) = (loopback()?, IngestConfig::new(two_cpus()));
        to.address = address.parse()?;
        let config = sockets_only()?;
        let ingest = namespace.enter(|| {
            if classic {
                keep_only(&[]);
            }
            Ingest::open(&to, &config)
        })?;
        let mut receivers = receivers(&ingest)?;
        for sender in senders {
            let sender = namespace.enter(|| UdpSocket::bind(sender))?;
            let to = SocketAddr::new(sender.local_addr()?.ip(), PORT);
            for key in 0..20u32 {
                sender.send_to(&datagram(key, b"hello"), to)?;
            }
            sender.send_to(b"junk", to)?;
            let received = drain(&mut receivers)?;
            assert_eq!(received.len(), 20, "{address} from {sender:?}");
            assert!(all_at_owners(&received));
        }
        let stats = ingest.stats()?;
        assert_eq!((stats.verdicts.dropped, stats.misplaced), (senders.len() as u64, 0));
    }
    Ok(())
}

/// Creates a test network and gives IPv6 addresses to the receiver (`here`) and the sender
/// (`there`).
fn net_with_ipv6(here: &str, there: &str) -> Result<TestNet> {
    let net = TestNet::new()?;
    for (namespace, interface, address) in
        [(&net.receiver, TestNet::INTERFACE, here), (&net.sender, TestNet::PEER, there)]
    {
        namespace.enter(|| -> Result<()> {
            std::fs::write(format!("/proc/sys/net/ipv6/conf/{interface}/disable_ipv6"), "0")?;
            testbed::ip(&format!("address add {address}/64 dev {interface} nodad\n"))
        })?;
    }
    Ok(net)
}

fn xdp_judges_and_steers_ipv6() -> Result<()> {
    let (here, there) = ("2001:db8::1", "2001:db8::2");
    for mode in steering_modes() {
        let net = net_with_ipv6(here, there)?;
        let ingest = open(&net.receiver, &config().attach_mode(*mode).build()?)?;
        let sender = net.sender.enter(|| UdpSocket::bind((there, 0)))?;
        for key in 0..20u32 {
            sender.send_to(&datagram(key, b"hello"), (here, PORT))?;
        }
        sender.send_to(b"junk", (here, PORT))?;
        let received = drain(&mut receivers(&ingest)?)?;
        assert_eq!(received.len(), 20, "{mode}");
        assert!(all_at_owners(&received), "{mode}");
        let IngestStats { verdicts, accepted, .. } = ingest.stats()?;
        let counted = (verdicts.dropped_short, verdicts.redirected, verdicts.invalid, accepted);
        // The program also sees the kernel's neighbour discovery packets, which it must not count.
        assert_eq!(counted, (1, 20, 0, Some(20)), "{mode}: {verdicts:?}");
    }
    Ok(())
}

/// The kernel gives a copy of a broadcast or multicast datagram to every socket of the group, so
/// ingest drops all copies.
fn broadcast_and_multicast_are_counted_and_not_received() -> Result<()> {
    let objects = ObjectSet::without_sockets_object()?;
    for (way, _) in ways() {
        let net = TestNet::new()?;
        let mut to = IngestConfig::new(two_cpus());
        // IPv4 multicast does not reach an IPv6 socket.
        to.address = "0.0.0.0".parse()?;
        let ingest = way.open(&net.receiver, &to, &objects)?;
        let message = datagram(0, b"hello");
        let sender = net.sending_socket()?;
        sender.set_broadcast(true)?;
        SockRef::from(&sender).set_multicast_if_v4(&TestNet::SENDER)?;
        for group in ["192.0.2.255", "255.255.255.255", "224.0.0.1"] {
            sender.send_to(&message, (group, PORT)).context(group)?;
        }
        // The receiving host itself sends a broadcast to its network.
        let own = net.receiver.enter(|| UdpSocket::bind((TestNet::RECEIVER, 0)))?;
        own.set_broadcast(true)?;
        own.send_to(&message, ("192.0.2.255", PORT))?;
        // These frames have the hardware address of the receiver, although their destination IP
        // address is a broadcast or multicast address.
        for group in [[255; 4], [224, 0, 0, 1]] {
            net.raw_socket()?.send(&udp_to(group, PORT, &message))?;
        }
        sender.send_to(&message, TestNet::destination(PORT))?;
        let received = drain(&mut receivers(&ingest)?)?;
        assert_eq!(received, [(two_cpus()[0], 0, b"hello".to_vec())], "{way:?}");
        let stats = ingest.stats()?;
        let dropped = match ingest.classic_bpf_reason() {
            None => stats.verdicts.dropped_multicast,
            Some(_) => stats.verdicts.dropped_unsorted,
        };
        assert_eq!((dropped, stats.misplaced), (12, 0), "{way:?}: {stats:?}");
        assert!(matches!(stats.overflowed, None | Some(0)), "{way:?}: {stats:?}");
    }
    Ok(())
}

/// The kernel may merge several datagrams of a sender into one packet. The kernel then chooses one
/// socket for the whole packet by the first datagram, so ingest must hand the other datagrams over
/// to their owners.
fn merged_datagrams_reach_the_owners_of_their_partitions() -> Result<()> {
    let objects = ObjectSet::without_sockets_object()?;
    for way in [Way::Sockets, Way::Classic].into_iter().filter(|way| way.is_available()) {
        check_merged(way, &objects).with_context(|| format!("{way:?}"))?;
    }
    Ok(())
}

fn check_merged(way: Way, objects: &ObjectSet) -> Result<()> {
    // From `linux/udp.h`.
    const UDP_SEGMENT: i32 = 103;
    let namespace = loopback()?;
    let ingest = way.open(&namespace, &IngestConfig::new(two_cpus()), objects)?;
    let sender = namespace.enter(|| UdpSocket::bind("127.0.0.1:0"))?;
    let one = datagram(0, b"payload").len();
    let size = one as libc::c_int;
    // SAFETY: the option takes an integer, and the kernel copies it.
    let set = unsafe {
        let (value, length) = (std::ptr::from_ref(&size).cast(), size_of_val(&size) as u32);
        libc::setsockopt(sender.as_raw_fd(), libc::SOL_UDP, UDP_SEGMENT, value, length)
    };
    ensure!(set == 0, "UDP_SEGMENT: {}", std::io::Error::last_os_error());
    let merged: Vec<u8> = (0..20).flat_map(|key| datagram(key, b"payload")).collect();
    for _ in 0..5 {
        sender.send_to(&merged, "127.0.0.1:9999")?;
    }
    let received = drain(&mut receivers(&ingest)?)?;
    assert_eq!(received.len(), 100);
    assert!(all_at_owners(&received));
    let misplaced = if kernel::loopback_keeps_merged() { 50 } else { 0 };
    assert_eq!(ingest.stats()?.misplaced, misplaced);
    Ok(())
}
