//! What keeps the order while a partition moves, each with the race made certain: without
//! it the test fails.

use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use laminar_xdp::{Ingest, IngestConfig, Receiver, XdpAttachMode, XdpConfig, XdpError};
use testbed::frame::datagram;
use testbed::{TestNet, kernel};

use crate::runtime::{Handler, ThreadPerCoreRuntime};
use crate::support::{
    ObjectSet, PORT, Way, config, datagrams, loopback, receivers, steering_modes, tests, two_cpus,
    wait_until, with_cpu_offline,
};

tests! {
    Root:
        what_waits_in_the_socket_comes_first,
        both_layers_follow_a_move,
        however_much_is_held_back_a_move_goes_on,
        no_move_where_order_cannot_be_kept;
    WholeMachine:
        what_waits_in_the_queue_comes_first,
        no_move_to_a_cpu_that_is_offline;
}

/// The partition that moves, from the first core to the second.
const PARTITION: u32 = 0;

/// Handles each datagram by adding its first byte; `0` takes a while.
fn start(net: &TestNet, config: &XdpConfig) -> Result<(ThreadPerCoreRuntime, Arc<Mutex<Vec<u8>>>)> {
    let handled = Arc::new(Mutex::new(Vec::new()));
    let handler = |_| -> Handler {
        let handled = handled.clone();
        Box::new(move |datagram| {
            if datagram.payload == b"\0" {
                std::thread::sleep(Duration::from_millis(150));
            }
            handled.lock().unwrap().extend(datagram.payload);
        })
    };
    let ingest = IngestConfig::new(two_cpus());
    let start = || ThreadPerCoreRuntime::with_xdp(&ingest, config, handler);
    Ok((net.receiver.enter(start)?, handled))
}

/// Sends while the partition moves: some before, some as soon as the new owner may get
/// them. Fails unless all of them are handled in order.
fn send_and_move(
    net: &TestNet,
    config: &XdpConfig,
    first: u8,
    prepare: impl FnOnce() -> Result<()>,
) -> Result<()> {
    const EACH: u8 = 20;
    let (runtime, handled) = start(net, config)?;
    let sender = net.sending_socket()?;
    let send = |byte: u8| sender.send_to(&datagram(PARTITION, &[byte]), TestNet::destination(PORT));
    prepare()?;
    let last = first + 2 * EACH;
    (first..first + EACH).try_for_each(|byte| send(byte).map(drop))?;
    std::thread::scope(|scope| -> Result<()> {
        let moving = scope.spawn(|| runtime.move_partition(PARTITION, two_cpus()[1]));
        for byte in first + EACH..last {
            std::thread::sleep(Duration::from_millis(2));
            send(byte)?;
        }
        Ok(moving.join().expect("no panic")?)
    })?;
    let all = wait_until(|| Ok(handled.lock().unwrap().len() >= 2 * EACH as usize))?;
    ensure!(all, "{:?}", handled.lock().unwrap());
    let handled = handled.lock().unwrap().clone();
    ensure!(handled == (first..last).collect::<Vec<_>>(), "{handled:?}");
    Ok(())
}

/// A thread of a higher class keeps the old CPU from its queue, which fills; the new
/// owner's is free.
fn what_waits_in_the_queue_comes_first() -> Result<()> {
    let objects = ObjectSet::without_sockets_object()?;
    let modes = steering_modes().iter().map(|mode| Way::Xdp(*mode));
    let ways = modes.chain([Way::XdpAndClassic]).map(|way| way.config(&objects));
    // Its CPU map takes no other kind of program, which concerns whoever asks the queue.
    let native = config().attach_mode(XdpAttachMode::Native);
    let multi_buffer = kernel::has_multi_buffer().then(|| native.force_target("linux-5.18"));
    // Where the kernel does not tell that a queue is empty it is given 200 ms.
    let busy_for = Duration::from_millis(if kernel::runs_live_frames() { 400 } else { 150 });
    for config in ways.chain(multi_buffer) {
        let (net, config) = (TestNet::new()?, config.build()?);
        let [old, new] = two_cpus();
        let (begin, at_work) = (Instant::now(), AtomicBool::new(false));
        let busy = |until: Duration| {
            testbed::become_real_time()?;
            at_work.store(true, Ordering::Release);
            while begin.elapsed() < until {
                std::hint::spin_loop();
            }
            std::io::Result::Ok(())
        };
        std::thread::scope(|scope| -> Result<()> {
            let mut hog = None;
            // The sender's CPU is the one that runs XDP for a veth.
            let sent = testbed::on_cpu(new, || {
                send_and_move(&net, &config, 1, || {
                    let until = begin.elapsed() + busy_for;
                    let at_work = &at_work;
                    hog = Some(scope.spawn(move || testbed::on_cpu(old, || busy(until))));
                    while !at_work.load(Ordering::Acquire) {
                        std::thread::yield_now();
                    }
                    Ok(())
                })
            })?;
            hog.context("it was started")?.join().expect("no panic")??;
            sent.with_context(|| format!("{config:?}"))
        })?;
    }
    Ok(())
}

/// The old owner is at one datagram for long; the others wait in its socket.
fn what_waits_in_the_socket_comes_first() -> Result<()> {
    let objects = ObjectSet::new()?;
    for way in [Way::Sockets, Way::Xdp(XdpAttachMode::Native)] {
        let net = TestNet::new()?;
        send_and_move(&net, &way.config(&objects).build()?, 0, || Ok(()))
            .with_context(|| format!("{way:?}"))?;
    }
    Ok(())
}

/// The kernel processes on the new owner's CPU. (Behind classic BPF it goes on where the
/// partition started.)
fn both_layers_follow_a_move() -> Result<()> {
    let objects = ObjectSet::without_sockets_object()?;
    for way in steering_modes().iter().map(|mode| Way::Xdp(*mode)) {
        let net = TestNet::new()?;
        let (mut to, config) = (IngestConfig::new(two_cpus()), way.config(&objects).build()?);
        to.address = TestNet::RECEIVER.into();
        let ingest = net.receiver.enter(|| Ingest::open(&to, &config))?;
        let [old, new] = two_cpus();
        let mut receivers = [ingest.receiver(old)?, ingest.receiver(new)?];
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| -> Result<()> {
            let work = scope.spawn(|| {
                while !stop.load(Ordering::Acquire) {
                    for receiver in &mut receivers {
                        receiver.receive(Duration::from_millis(1), |_| {}).unwrap();
                    }
                }
            });
            let moved = ingest.move_partition(PARTITION, new);
            stop.store(true, Ordering::Release);
            work.join().expect("no panic");
            Ok(moved?)
        })?;
        // The kernel keeps account of the CPU for connected sockets.
        let sender = net.sending_socket()?;
        receivers[1].socket().connect(sender.local_addr()?)?;
        sender.send_to(&datagram(PARTITION, b""), TestNet::destination(PORT))?;
        let mut seen = 0;
        let begin = Instant::now();
        while seen == 0 && begin.elapsed() < Duration::from_secs(5) {
            seen += receivers[1].receive(Duration::from_millis(10), |_| {})?;
        }
        let processed_on = socket2::SockRef::from(receivers[1].socket()).cpu_affinity()?;
        ensure!((seen, processed_on) == (1, new as usize), "{way:?}: {seen}, CPU {processed_on}");
    }
    Ok(())
}

/// Behind classic BPF the CPU where a partition starts may hold it back and hand it on at
/// once: it answers although it has stopped taking more.
fn however_much_is_held_back_a_move_goes_on() -> Result<()> {
    const DATAGRAMS: u32 = 66_000;
    if datagrams() < 10_000 {
        return Ok(()); // emulated: no kernel does this another way
    }
    let (namespace, objects) = (loopback()?, ObjectSet::without_sockets_object()?);
    // With rights, for a buffer that holds what is not taken.
    let config = Way::XdpAndClassic.config(&objects).enabled(false).build()?;
    let open = || Ingest::open(&IngestConfig::new(two_cpus()), &config);
    let ingest = namespace.enter(open)?;
    ensure!(ingest.classic_reason().is_some());
    let [start, other] = two_cpus();
    let mut receivers = receivers(&ingest)?;
    // Has these receive while the partition moves.
    let move_to = |core: u32, receivers: &mut [Receiver], seen: &mut Vec<u32>| -> Result<()> {
        std::thread::scope(|scope| -> Result<()> {
            let moving = scope.spawn(|| ingest.move_partition(PARTITION, core));
            while !moving.is_finished() {
                for receiver in &mut *receivers {
                    receiver.receive(Duration::from_millis(1), |datagram| {
                        seen.extend(datagram.payload.try_into().map(u32::from_be_bytes));
                    })?;
                }
            }
            Ok(moving.join().expect("no panic")?)
        })
    };
    let mut seen = Vec::new();
    move_to(other, &mut receivers, &mut seen)?;
    let error = move_to(start, &mut receivers[..1], &mut seen).unwrap_err();
    assert!(error.to_string().contains(&format!("the receiver of CPU {other}")), "{error}");
    let sender = namespace.enter(|| UdpSocket::bind("127.0.0.1:0"))?;
    for number in 0..DATAGRAMS {
        sender.send_to(&datagram(PARTITION, &number.to_be_bytes()), ("127.0.0.1", PORT))?;
        if number % 100 == 0 {
            // Takes more than a hundred, as long as it takes any.
            for _ in 0..4 {
                ensure!(receivers[0].receive(Duration::ZERO, |_| {})? == 0, "it is held back");
            }
        }
    }
    assert!(seen.is_empty());
    move_to(start, &mut receivers, &mut seen)?;
    let begin = Instant::now();
    while seen.len() < DATAGRAMS as usize && begin.elapsed() < Duration::from_secs(5) {
        receivers[0].receive(Duration::from_millis(1), |datagram| {
            seen.extend(datagram.payload.try_into().map(u32::from_be_bytes));
        })?;
    }
    ensure!(seen == (0..DATAGRAMS).collect::<Vec<_>>(), "{} of {DATAGRAMS}", seen.len());
    Ok(())
}

/// Receive packet steering mixes what the queues keep apart.
fn no_move_where_order_cannot_be_kept() -> Result<()> {
    let net = TestNet::new()?;
    let (runtime, _) = start(&net, &config().partitions(64).build()?)?;
    let to = two_cpus()[1];
    net.receiver.enter(|| -> Result<()> {
        testbed::mount_own_sysfs()?;
        let mask = format!("/sys/class/net/{}/queues/rx-0/rps_cpus", TestNet::INTERFACE);
        std::fs::write(&mask, "3").context(mask.clone())?;
        let error = runtime.move_partition(PARTITION, to).unwrap_err();
        assert!(error.to_string().contains("receive packet steering"), "{error}");
        assert!(matches!(error, XdpError::NotMoved { .. }));
        std::fs::write(&mask, "0")?;
        runtime.move_partition(PARTITION, to)?;
        Ok(())
    })
}

fn no_move_to_a_cpu_that_is_offline() -> Result<()> {
    let net = TestNet::new()?;
    let (runtime, _) = start(&net, &config().partitions(64).build()?)?;
    let to = two_cpus()[1];
    let error = with_cpu_offline(to, || runtime.move_partition(PARTITION, to).unwrap_err())?;
    assert!(error.to_string().contains("is offline"), "{error}");
    runtime.move_partition(PARTITION, to)?;
    Ok(())
}
