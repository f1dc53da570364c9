//! What receivers get, and what is counted, whatever comes and whatever happens to them.

use std::net::{SocketAddr, UdpSocket};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use laminar_xdp::{Ingest, IngestConfig, Receiver, XdpConfig, XdpError};
use socket2::SockRef;
use testbed::frame::datagram;
use testbed::{Namespace, Wire, kernel};

use crate::ingest::{Way, two_cores, ways, without_sockets_object};
use crate::lifecycle::keep_only;
use crate::runtime::{Handler, ThreadPerCoreRuntime};
use crate::stream::{Log, PARTITIONS, Stream};
use crate::support::{config, steering_modes, tests, with_cpu_offline};

tests! {
    junk_is_counted_alike_in_every_mode,
    both_families,
    processed_and_read_on_the_owners_cpu,
    merged_datagrams_reach_their_partitions,
    a_thread_that_dies,
    what_a_dead_thread_left_is_handed_over,
}

tests! { ALONE: a_cpu_that_goes_offline }

pub const PORT: u16 = 9999;

/// Opens in a namespace.
pub fn open(namespace: &Namespace, config: &XdpConfig) -> Result<Ingest, XdpError> {
    namespace.enter(|| Ingest::open(&IngestConfig::new(two_cores()), config))
}

pub fn sockets_only() -> Result<XdpConfig> {
    Ok(config().enabled(false).partitions(PARTITIONS as u32).build()?)
}

pub fn receivers(ingest: &Ingest) -> Result<Vec<Receiver>> {
    Ok(two_cores().into_iter().map(|core| ingest.receiver(core)).collect::<Result<_, _>>()?)
}

/// Handles what arrives until nothing has for a while: its receiver's core, its partition
/// and its payload.
pub fn drain(receivers: &mut [Receiver]) -> Result<Vec<(u32, u32, Vec<u8>)>> {
    let (mut seen, mut idle) = (Vec::new(), 0);
    while idle < 10 {
        let before = seen.len();
        for receiver in &mut *receivers {
            let core = receiver.core();
            receiver.receive(Duration::from_millis(10), |datagram| {
                seen.push((core, datagram.partition, datagram.payload.to_vec()));
            })?;
        }
        idle = if seen.len() == before { idle + 1 } else { 0 };
    }
    Ok(seen)
}

pub fn owner_of(partition: u32) -> u32 {
    two_cores()[partition as usize % 2]
}

/// A namespace of its own, with nothing but the loopback interface.
pub fn loopback() -> Result<Namespace> {
    let namespace = Namespace::new()?;
    namespace.enter(|| testbed::ip("link set dev lo up\n"))?;
    Ok(namespace)
}

fn junk_is_counted_alike_in_every_mode() -> Result<()> {
    let objects = without_sockets_object()?;
    for (way, _) in ways() {
        let wire = Wire::new()?;
        let config = way.config(&objects).build()?;
        let ingest = wire.receiver.enter(|| {
            if way == Way::Classic {
                keep_only(&[]);
            }
            Ingest::open(&IngestConfig::new(two_cores()), &config)
        })?;
        let sender = wire.sending_socket()?;
        let send = |bytes: &[u8]| sender.send_to(bytes, Wire::destination(PORT));
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
    for (address, senders) in [
        ("::", &["[::1]:0", "127.0.0.1:0"][..]),
        ("0.0.0.0", &["127.0.0.1:0"]),
        ("::1", &["[::1]:0"]),
    ] {
        let mut to = IngestConfig::new(two_cores());
        to.address = address.parse()?;
        let config = sockets_only()?;
        let ingest = namespace.enter(|| Ingest::open(&to, &config))?;
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
        assert_eq!(ingest.stats()?.verdicts.dropped_short, senders.len() as u64);
    }
    Ok(())
}

/// By the kernel's own account (SO_INCOMING_CPU), and by the thread that reads. The kernel
/// keeps that account for connected sockets only, so each is connected to a sender.
fn processed_and_read_on_the_owners_cpu() -> Result<()> {
    for &mode in steering_modes() {
        let wire = Wire::new()?;
        let (mut to, config) = (IngestConfig::new(two_cores()), config().attach_mode(mode));
        to.address = Wire::RECEIVER.into();
        let config = config.build()?;
        let ingest = wire.receiver.enter(|| Ingest::open(&to, &config))?;
        for core in two_cores() {
            let sender = wire.sending_socket()?;
            ingest.receiver(core)?.socket().connect(sender.local_addr()?)?;
            let partition = (0..).find(|p| owner_of(*p) == core).context("a partition")?;
            for round in 0..50u32 {
                let key = partition + 2 * round;
                sender.send_to(&datagram(key, b""), Wire::destination(PORT))?;
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
    }
    Ok(())
}

/// The kernel may hand over many datagrams of a sender as one; the group's choice is made
/// for the first.
fn merged_datagrams_reach_their_partitions() -> Result<()> {
    const UDP_SEGMENT: i32 = 103;
    let namespace = loopback()?;
    let ingest = open(&namespace, &sockets_only()?)?;
    let sender = namespace.enter(|| UdpSocket::bind("127.0.0.1:0"))?;
    let one = datagram(0, b"payload").len();
    let size = one as libc::c_int;
    // SAFETY: an integer option, which the kernel copies.
    let set = unsafe {
        use std::os::fd::AsRawFd;
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

/// The others go on; what was for it waits, and a new thread goes on behind the datagram
/// at which it died.
fn a_thread_that_dies() -> Result<()> {
    let wire = Wire::new()?;
    let handled = Arc::new(AtomicU64::new(0));
    let handler = |partition| -> Handler {
        let handled = handled.clone();
        Box::new(move |datagram| {
            if datagram.payload == b"poison" {
                // As panic!, but without a message among the tests' results.
                std::panic::resume_unwind(Box::new("poisoned"));
            }
            handled.fetch_add(1u64 << (32 * (partition % 2)), Relaxed);
        })
    };
    let (ingest, xdp) = (IngestConfig::new(two_cores()), config().build()?);
    let mut runtime =
        wire.receiver.enter(|| ThreadPerCoreRuntime::with_xdp(&ingest, &xdp, handler))?;
    let sender = wire.sending_socket()?;
    let send =
        |key, payload: &[u8]| sender.send_to(&datagram(key, payload), Wire::destination(PORT));
    let both = |even: u64, odd: u64| -> Result<()> {
        let begin = Instant::now();
        while handled.load(Relaxed) != even | odd << 32 {
            let now = handled.load(Relaxed);
            ensure!(begin.elapsed() < Duration::from_secs(5), "{} {}", now as u32, now >> 32);
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    };
    // In one go, so that datagrams are taken from the socket together with the poison.
    for number in 0..100 {
        send(0, if number == 50 { b"poison" } else { b"even" })?;
    }
    let begin = Instant::now();
    while runtime.dead_cores().is_empty() && begin.elapsed() < Duration::from_secs(5) {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(runtime.dead_cores(), [two_cores()[0]]);
    for _ in 0..100 {
        send(1, b"odd")?;
        send(2, b"even")?;
    }
    both(50, 100)?;
    let error = runtime.move_partition(0, two_cores()[1]).unwrap_err();
    assert!(error.to_string().contains("nobody reads its socket"), "{error}");
    runtime.restart_dead()?;
    both(199, 100)?;
    assert!(runtime.dead_cores().is_empty());
    runtime.move_partition(0, two_cores()[1])?;
    Ok(())
}

/// What it had taken from its socket is handled before another process begins, and on its
/// CPU, whichever one hands over.
fn what_a_dead_thread_left_is_handed_over() -> Result<()> {
    let namespace = loopback()?;
    let [first, second] = two_cores()[..] else { unreachable!() };
    let handled = Arc::new(Mutex::new(Vec::new()));
    let handler = |_| -> Handler {
        let handled = handled.clone();
        Box::new(move |datagram| {
            match datagram.payload {
                // So long that the rest is taken from the socket together.
                b"slow" => std::thread::sleep(Duration::from_millis(100)),
                b"poison" => std::panic::resume_unwind(Box::new("poisoned")),
                _ => {}
            }
            let number = datagram.payload[0];
            handled.lock().unwrap().push((number, testbed::current_cpu()));
        })
    };
    let (to, config) = (IngestConfig::new(two_cores()), sockets_only()?);
    let mut runtime = namespace.enter(|| ThreadPerCoreRuntime::with_xdp(&to, &config, handler))?;
    let sender = namespace.enter(|| UdpSocket::bind("127.0.0.1:0"))?;
    let send = |payload: &[u8]| sender.send_to(&datagram(0, payload), "127.0.0.1:9999");
    send(b"slow")?;
    send(b"poison")?;
    (0..20).try_for_each(|number| send(&[number]).map(drop))?;
    let begin = Instant::now();
    while runtime.dead_cores().is_empty() && begin.elapsed() < Duration::from_secs(5) {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(*handled.lock().unwrap(), [(b's', first)]);
    let (here, there) = UnixStream::pair()?;
    std::thread::scope(|scope| -> Result<()> {
        let next = scope.spawn(|| ThreadPerCoreRuntime::take_over(&to, &config, &there, handler));
        testbed::on_cpu(second, || runtime.hand_over(&here))??;
        drop(next.join().expect("no panic")?);
        Ok(())
    })?;
    let left: Vec<_> = (0..20).map(|number| (number, first)).collect();
    assert_eq!(handled.lock().unwrap()[1..], left);
    Ok(())
}

/// The kernel runs its queue and its thread on another CPU: nothing is lost, and nobody
/// is overtaken. When it is back, so is the queue.
fn a_cpu_that_goes_offline() -> Result<()> {
    let objects = without_sockets_object()?;
    let last = two_cores()[1];
    for way in [Way::Sockets, Way::Xdp(steering_modes()[0])] {
        let (wire, log) = (Wire::new()?, Log::new()?);
        let runtime = way.start(&wire, &objects, &log)?;
        let mut stream = Stream::new(&wire, &log)?;
        stream.go_on_while(1000, || {
            with_cpu_offline(last, || std::thread::sleep(Duration::from_millis(200)))
        })?;
        log.check(&stream).with_context(|| format!("{way:?}"))?;
        drop(runtime);
    }
    Ok(())
}
