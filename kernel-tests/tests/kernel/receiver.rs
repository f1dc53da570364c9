//! The receiver of one CPU: on which CPU it reads, when its descriptor becomes readable, and how
//! partitions move away from a busy receiver.

use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use laminar_xdp::{Ingest, IngestConfig, Receiver};
use socket2::SockRef;
use testbed::TestNet;
use testbed::frame::datagram;

use crate::support::{
    PORT, config, loopback, open, owner_of, receivers, sockets_only, steering_modes, tests,
    two_cpus, wait_until,
};

tests! {
    Root:
        datagrams_are_processed_and_read_on_the_cpu_of_their_owner;
    Namespaces:
        polling_the_receiver_wakes_for_datagrams_and_moves,
        partition_moves_although_its_socket_never_runs_empty;
}

/// Each socket is connected to its sender: only for connected sockets does the kernel record the
/// CPU that processed a datagram (SO_INCOMING_CPU).
fn datagrams_are_processed_and_read_on_the_cpu_of_their_owner() -> Result<()> {
    for &mode in steering_modes() {
        let net = TestNet::new()?;
        let (mut to, config) = (IngestConfig::new(two_cpus()), config().attach_mode(mode));
        to.address = TestNet::RECEIVER.into();
        let config = config.build()?;
        let ingest = net.receiver.enter(|| Ingest::open(&to, &config))?;
        for cpu in two_cpus() {
            let sender = net.sending_socket()?;
            ingest.receiver(cpu)?.socket().connect(sender.local_addr()?)?;
            let partition = (0..).find(|p| owner_of(*p) == cpu).context("a partition")?;
            for round in 0..50u32 {
                let message = datagram(partition + 2 * round, b"");
                // Send from the other CPU. Without steering, a veth device would process the
                // packets on that CPU, so the test shows that steering works.
                let other = two_cpus().into_iter().find(|other| *other != cpu);
                testbed::on_cpu(other.context("two CPUs")?, || {
                    sender.send_to(&message, TestNet::destination(PORT))
                })??;
                let mut receiver = ingest.receiver(cpu)?;
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
                assert_eq!(read_on, [cpu], "{mode}");
                let processed_on = SockRef::from(receiver.socket()).cpu_affinity()?;
                assert_eq!(processed_on, cpu as usize, "{mode}");
            }
        }
        assert_eq!(ingest.stats()?.verdicts.redirected, 100, "{mode}");
    }
    Ok(())
}

/// The descriptor also becomes readable when a move of a partition needs this receiver. Otherwise
/// the move would wait until the next datagram arrives.
fn polling_the_receiver_wakes_for_datagrams_and_moves() -> Result<()> {
    let namespace = loopback()?;
    let ingest = open(&namespace, &sockets_only()?)?;
    let sender = namespace.enter(|| UdpSocket::bind("127.0.0.1:0"))?;
    let (done, handled) = (AtomicBool::new(false), AtomicU64::new(0));
    let serve = |mut receiver: Receiver| -> Result<()> {
        while !done.load(Relaxed) {
            let fd = receiver.as_raw_fd();
            let mut polled = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
            // SAFETY: the pointer is to one entry, which outlives the call.
            let ready = unsafe { libc::poll(&raw mut polled, 1, 20_000) };
            ensure!(ready > 0, "poll returned {ready}");
            let received = receiver.receive(Duration::ZERO, |_| {})?;
            handled.fetch_add(received.handled as u64, Relaxed);
        }
        Ok(())
    };
    std::thread::scope(|scope| -> Result<()> {
        let serving = receivers(&ingest)?.into_iter().map(|r| scope.spawn(|| serve(r)));
        let serving: Vec<_> = serving.collect();
        let moved = ingest.move_partition(0, two_cpus()[1]);
        let send_four = || {
            (1..5).try_for_each(|key| {
                sender.send_to(&datagram(key, b""), ("127.0.0.1", PORT)).map(drop)
            })
        };
        send_four()?;
        wait_until(|| Ok(handled.load(Relaxed) >= 4))?;
        done.store(true, Relaxed);
        // Send datagrams to wake the threads, so that they see `done` and end.
        send_four()?;
        for thread in serving {
            thread.join().expect("no panic")?;
        }
        Ok(moved?)
    })?;
    assert!(handled.load(Relaxed) >= 4, "the datagrams did not wake the threads");
    Ok(())
}

/// A move must wait until the old owner has handled the datagrams that waited when the move began.
/// The move need not wait for an empty socket: once the old owner has handled as many datagrams as
/// its socket can hold, those datagrams are certainly handled.
fn partition_moves_although_its_socket_never_runs_empty() -> Result<()> {
    let (namespace, mut to) = (loopback()?, IngestConfig::new(two_cpus()));
    to.receive_buffer = 4096;
    let config = sockets_only()?;
    let ingest = namespace.enter(|| Ingest::open(&to, &config))?;
    let (done, was_empty) = (AtomicBool::new(false), AtomicBool::new(false));
    let sender = namespace.enter(|| UdpSocket::bind("127.0.0.1:0"))?;
    let fill = || {
        (0..50).try_for_each(|_| sender.send_to(&datagram(2, b""), ("127.0.0.1", PORT)).map(drop))
    };
    let [mut busy, mut idle] = <[Receiver; 2]>::try_from(receivers(&ingest)?).expect("two");
    fill()?;
    std::thread::scope(|scope| -> Result<()> {
        scope.spawn(|| {
            while !done.load(Relaxed) {
                // The handler fills the socket again, so that the receiver never finds the socket
                // empty.
                let handled = busy.receive(Duration::ZERO, |_| fill().expect("lo"));
                was_empty.fetch_or(handled.expect("receive").handled == 0, Relaxed);
            }
        });
        scope.spawn(|| {
            while !done.load(Relaxed) {
                idle.receive(Duration::from_millis(5), |_| {}).expect("receive");
            }
        });
        let moved = ingest.move_partition(0, two_cpus()[1]);
        done.store(true, Relaxed);
        Ok(moved?)
    })?;
    assert!(!was_empty.load(Relaxed), "the socket ran empty, so the test proved nothing");
    Ok(())
}
