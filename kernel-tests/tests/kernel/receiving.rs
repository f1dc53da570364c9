//! What receivers get, and what is counted, whatever comes and whatever happens to them.

use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use caps::Capability;
use laminar_xdp::{Ingest, IngestConfig, IngestStats, Receiver};
use socket2::SockRef;
use testbed::frame::{datagram, udp_to};
use testbed::{TestNet, kernel};

use crate::support::{
    ObjectSet, PORT, Way, config, drain, keep_only, loopback, open, owner_of, receivers,
    sockets_only, steering_modes, tests, two_cpus, wait_until, ways,
};

tests! {
    Root:
        ipv6_through_xdp,
        processed_and_read_on_the_owners_cpu,
        merged_datagrams_reach_their_partitions,
        one_capability_is_enough_for_sockets;
    Namespaces:
        junk_is_counted_alike_in_every_mode,
        both_families,
        what_is_for_everybody_is_for_nobody,
        who_waits_elsewhere_is_told,
        a_socket_that_never_runs_empty;
}

fn junk_is_counted_alike_in_every_mode() -> Result<()> {
    let objects = ObjectSet::without_sockets_object()?;
    for (way, _) in ways() {
        let net = TestNet::new()?;
        let config = way.config(&objects).build()?;
        let ingest = net.receiver.enter(|| {
            if way == Way::Classic {
                keep_only(&[]);
            }
            Ingest::open(&IngestConfig::new(two_cpus()), &config)
        })?;
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
        // Several fragments, which XDP passes and the sockets judge as one.
        send(&datagram(3, &[7; 4000]))?;
        send(&vec![0; 4000])?;
        let mut receivers = receivers(&ingest)?;
        let seen = drain(&mut receivers)?;
        assert_eq!(seen.len(), 11, "{way:?}");
        assert!(seen.iter().all(|(core, partition, _)| *core == owner_of(*partition)), "{way:?}");
        let stats = ingest.stats()?;
        let verdicts = stats.verdicts;
        let reasons = (verdicts.dropped_magic, verdicts.dropped_short, verdicts.dropped_length);
        match way {
            Way::Classic => {
                assert_eq!((verdicts.dropped, verdicts.dropped_unsorted), (61, 61), "{stats:?}");
                assert_eq!((reasons, stats.overflowed), ((0, 0, 0), None));
            }
            // XDP sorted all but what was in fragments.
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

/// The unspecified address stands for both; a given one for itself.
fn both_families() -> Result<()> {
    let namespace = loopback()?;
    let all = "::";
    for (address, classic, senders) in [
        (all, false, &["[::1]:0", "127.0.0.1:0"][..]),
        (all, true, &["[::1]:0", "127.0.0.1:0"]),
        ("0.0.0.0", false, &["127.0.0.1:0"]),
        ("::1", false, &["[::1]:0"]),
    ] {
        let mut to = IngestConfig::new(two_cpus());
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
            let seen = drain(&mut receivers)?;
            assert_eq!(seen.len(), 20, "{address} from {sender:?}");
            assert!(seen.iter().all(|(core, partition, _)| *core == owner_of(*partition)));
        }
        let stats = ingest.stats()?;
        assert_eq!((stats.verdicts.dropped, stats.misplaced), (senders.len() as u64, 0));
    }
    Ok(())
}

/// XDP judges and steers both.
fn ipv6_through_xdp() -> Result<()> {
    let net = TestNet::new()?;
    let (here, there) = ("2001:db8::1", "2001:db8::2");
    for (namespace, interface, address) in
        [(&net.receiver, TestNet::INTERFACE, here), (&net.sender, TestNet::PEER, there)]
    {
        namespace.enter(|| -> Result<()> {
            std::fs::write(format!("/proc/sys/net/ipv6/conf/{interface}/disable_ipv6"), "0")?;
            testbed::ip(&format!("address add {address}/64 dev {interface} nodad\n"))
        })?;
    }
    for mode in steering_modes() {
        let ingest = open(&net.receiver, &config().attach_mode(*mode).build()?)?;
        let sender = net.sender.enter(|| UdpSocket::bind((there, 0)))?;
        for key in 0..20u32 {
            sender.send_to(&datagram(key, b"hello"), (here, PORT))?;
        }
        sender.send_to(b"junk", (here, PORT))?;
        let seen = drain(&mut receivers(&ingest)?)?;
        assert_eq!(seen.len(), 20, "{mode}");
        assert!(seen.iter().all(|(core, partition, _)| *core == owner_of(*partition)), "{mode}");
        let IngestStats { verdicts, accepted, .. } = ingest.stats()?;
        let counted = (verdicts.dropped_short, verdicts.redirected, verdicts.invalid, accepted);
        // Beside it the kernel looks for its neighbours, which is nothing to us.
        assert_eq!(counted, (1, 20, 0, Some(20)), "{mode}: {verdicts:?}");
    }
    Ok(())
}

/// The kernel gives each socket a copy of what is sent to a broadcast or multicast address:
/// none is received, and each is counted.
fn what_is_for_everybody_is_for_nobody() -> Result<()> {
    let objects = ObjectSet::without_sockets_object()?;
    for (way, _) in ways() {
        let (net, config) = (TestNet::new()?, way.config(&objects).build()?);
        let mut to = IngestConfig::new(two_cpus());
        // IPv4 multicast does not reach sockets for both families.
        to.address = "0.0.0.0".parse()?;
        let ingest = net.receiver.enter(|| {
            if way == Way::Classic {
                keep_only(&[]);
            }
            Ingest::open(&to, &config)
        })?;
        let message = datagram(0, b"hello");
        let sender = net.sending_socket()?;
        sender.set_broadcast(true)?;
        SockRef::from(&sender).set_multicast_if_v4(&TestNet::SENDER)?;
        for group in ["192.0.2.255", "255.255.255.255", "224.0.0.1"] {
            sender.send_to(&message, (group, PORT)).context(group)?;
        }
        // By this host itself.
        let own = net.receiver.enter(|| UdpSocket::bind((TestNet::RECEIVER, 0)))?;
        own.set_broadcast(true)?;
        own.send_to(&message, ("192.0.2.255", PORT))?;
        // In a frame that is addressed to this host alone.
        for group in [[255; 4], [224, 0, 0, 1]] {
            net.raw_socket()?.send(&udp_to(group, PORT, &message))?;
        }
        sender.send_to(&message, TestNet::destination(PORT))?;
        let seen = drain(&mut receivers(&ingest)?)?;
        assert_eq!(seen, [(two_cpus()[0], 0, b"hello".to_vec())], "{way:?}");
        let stats = ingest.stats()?;
        let dropped = match ingest.classic_reason() {
            None => stats.verdicts.dropped_multicast,
            Some(_) => stats.verdicts.dropped_unsorted,
        };
        assert_eq!((dropped, stats.misplaced), (12, 0), "{way:?}: {stats:?}");
        assert!(matches!(stats.overflowed, None | Some(0)), "{way:?}: {stats:?}");
    }
    Ok(())
}

/// By the kernel's own account (SO_INCOMING_CPU), and by the thread that reads. The kernel
/// keeps that account for connected sockets only, so each is connected to a sender.
fn processed_and_read_on_the_owners_cpu() -> Result<()> {
    for &mode in steering_modes() {
        let net = TestNet::new()?;
        let (mut to, config) = (IngestConfig::new(two_cpus()), config().attach_mode(mode));
        to.address = TestNet::RECEIVER.into();
        let config = config.build()?;
        let ingest = net.receiver.enter(|| Ingest::open(&to, &config))?;
        for core in two_cpus() {
            let sender = net.sending_socket()?;
            ingest.receiver(core)?.socket().connect(sender.local_addr()?)?;
            let partition = (0..).find(|p| owner_of(*p) == core).context("a partition")?;
            for round in 0..50u32 {
                let message = datagram(partition + 2 * round, b"");
                // Where a veth's packets are processed, if nothing hands them on.
                let other = two_cpus().into_iter().find(|other| *other != core);
                testbed::on_cpu(other.context("two cores")?, || {
                    sender.send_to(&message, TestNet::destination(PORT))
                })??;
                let mut receiver = ingest.receiver(core)?;
                let read_on = std::thread::scope(|scope| {
                    let read = || -> Result<Vec<u32>> {
                        receiver.pin_thread()?;
                        let (mut cpus, begin) = (Vec::new(), Instant::now());
                        while cpus.is_empty() && begin.elapsed() < Duration::from_secs(5) {
                            receiver.receive(Duration::from_millis(100), |_| {
                                cpus.push(testbed::current_cpu());
                            })?;
                        }
                        Ok(cpus)
                    };
                    scope.spawn(read).join().expect("no panic")
                })?;
                assert_eq!(read_on, [core], "{mode}");
                let processed_on = SockRef::from(receiver.socket()).cpu_affinity()?;
                assert_eq!(processed_on, core as usize, "{mode}");
            }
        }
        assert_eq!(ingest.stats()?.verdicts.redirected, 100, "{mode}");
    }
    Ok(())
}

/// The kernel may hand over many datagrams of a sender as one; the group's choice is made
/// for the first.
fn merged_datagrams_reach_their_partitions() -> Result<()> {
    merged_datagrams(false).context("an object")?;
    merged_datagrams(true).context("classic BPF")
}

fn merged_datagrams(classic: bool) -> Result<()> {
    const UDP_SEGMENT: i32 = 103;
    let (namespace, config) = (loopback()?, sockets_only()?);
    let ingest = namespace.enter(|| {
        if classic {
            keep_only(&[]);
        }
        Ingest::open(&IngestConfig::new(two_cpus()), &config)
    })?;
    let sender = namespace.enter(|| UdpSocket::bind("127.0.0.1:0"))?;
    let one = datagram(0, b"payload").len();
    let size = one as libc::c_int;
    // SAFETY: an integer option, which the kernel copies.
    let set = unsafe {
        let (value, length) = (std::ptr::from_ref(&size).cast(), size_of_val(&size) as u32);
        libc::setsockopt(sender.as_raw_fd(), libc::SOL_UDP, UDP_SEGMENT, value, length)
    };
    ensure!(set == 0, "UDP_SEGMENT: {}", std::io::Error::last_os_error());
    let merged: Vec<u8> = (0..20).flat_map(|key| datagram(key, b"payload")).collect();
    for _ in 0..5 {
        sender.send_to(&merged, "127.0.0.1:9999")?;
    }
    let seen = drain(&mut receivers(&ingest)?)?;
    assert_eq!(seen.len(), 100);
    assert!(seen.iter().all(|(core, partition, _)| *core == owner_of(*partition)));
    let misplaced = if kernel::loopback_keeps_merged() { 50 } else { 0 };
    assert_eq!(ingest.stats()?.misplaced, misplaced);
    Ok(())
}

/// CAP_BPF has an object choose, filter and count.
fn one_capability_is_enough_for_sockets() -> Result<()> {
    let (namespace, config) = (loopback()?, sockets_only()?);
    let ingest = namespace.enter(|| {
        keep_only(&[Capability::CAP_BPF]);
        Ingest::open(&IngestConfig::new(two_cpus()), &config)
    })?;
    assert_eq!(ingest.classic_reason(), None);
    let sender = namespace.enter(|| UdpSocket::bind("127.0.0.1:0"))?;
    sender.send_to(b"junk", ("127.0.0.1", PORT))?;
    ensure!(wait_until(|| Ok(ingest.stats()?.verdicts.dropped_short >= 1))?, "it is not counted");
    Ok(())
}

/// The socket and [`Receiver::attention`] are enough to wait for: without the latter, a move
/// would wait until something arrives.
fn who_waits_elsewhere_is_told() -> Result<()> {
    let namespace = loopback()?;
    let ingest = open(&namespace, &sockets_only()?)?;
    let sender = namespace.enter(|| UdpSocket::bind("127.0.0.1:0"))?;
    let (done, handled) = (AtomicBool::new(false), AtomicU64::new(0));
    let serve = |mut receiver: Receiver| -> Result<()> {
        while !done.load(Relaxed) {
            let descriptors = [receiver.socket().as_raw_fd(), receiver.attention().as_raw_fd()];
            let mut polled =
                descriptors.map(|fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 });
            // SAFETY: two entries, which outlive the call.
            let ready = unsafe { libc::poll(polled.as_mut_ptr(), 2, 20_000) };
            ensure!(ready > 0, "nothing came of waiting: {ready}");
            let count = receiver.receive(Duration::ZERO, |_| {})?;
            handled.fetch_add(count as u64, Relaxed);
        }
        Ok(())
    };
    std::thread::scope(|scope| -> Result<()> {
        let serving = receivers(&ingest)?.into_iter().map(|r| scope.spawn(|| serve(r)));
        let serving: Vec<_> = serving.collect();
        let moved = ingest.move_partition(0, two_cpus()[1]);
        let some = || {
            (1..5).try_for_each(|key| {
                sender.send_to(&datagram(key, b""), ("127.0.0.1", PORT)).map(drop)
            })
        };
        some()?;
        wait_until(|| Ok(handled.load(Relaxed) >= 4))?;
        done.store(true, Relaxed);
        some()?;
        for thread in serving {
            thread.join().expect("no panic")?;
        }
        Ok(moved?)
    })?;
    assert!(handled.load(Relaxed) >= 4, "they wake up for datagrams too");
    Ok(())
}

/// A partition moves although the receiver always finds something: by what a socket can
/// hold it knows that what waited is handled.
fn a_socket_that_never_runs_empty() -> Result<()> {
    let (namespace, mut to) = (loopback()?, IngestConfig::new(two_cpus()));
    to.receive_buffer = 4096;
    let config = sockets_only()?;
    let ingest = namespace.enter(|| Ingest::open(&to, &config))?;
    let (done, was_empty) = (AtomicBool::new(false), AtomicBool::new(false));
    let sender = namespace.enter(|| UdpSocket::bind("127.0.0.1:0"))?;
    let full = || {
        (0..50).try_for_each(|_| sender.send_to(&datagram(2, b""), ("127.0.0.1", PORT)).map(drop))
    };
    let [mut busy, mut idle] = <[Receiver; 2]>::try_from(receivers(&ingest)?).expect("two");
    full()?;
    std::thread::scope(|scope| -> Result<()> {
        scope.spawn(|| {
            while !done.load(Relaxed) {
                // Whatever is taken is there again before the next look.
                let handled = busy.receive(Duration::ZERO, |_| full().expect("lo"));
                was_empty.fetch_or(handled.expect("it is read") == 0, Relaxed);
            }
        });
        scope.spawn(|| {
            while !done.load(Relaxed) {
                idle.receive(Duration::from_millis(5), |_| {}).expect("it is read");
            }
        });
        let moved = ingest.move_partition(0, two_cpus()[1]);
        done.store(true, Relaxed);
        Ok(moved?)
    })?;
    assert!(!was_empty.load(Relaxed), "the test is none if the socket runs empty");
    Ok(())
}
