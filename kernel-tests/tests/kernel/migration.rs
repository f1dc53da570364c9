//! The order of datagrams while their partition moves. Each step of a move prevents a race. Each
//! test provokes one of these races, so the test fails if the step is missing.

use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use laminar_xdp::{Ingest, IngestConfig, Receiver, XdpAttachMode, XdpConfig};
use socket2::SockRef;
use testbed::frame::datagram;
use testbed::{TestNet, kernel};

use crate::runtime::{Handler, ThreadPerCoreRuntime};
use crate::support::{
    ObjectSet, PORT, Way, config, datagrams, loopback, receivers, steering_modes, tests, two_cpus,
    wait_until,
};

tests! {
    Root:
        xdp_and_sockets_follow_a_move,
        other_partitions_arrive_although_the_hold_back_limit_is_reached;
    Namespaces:
        datagrams_in_the_old_socket_are_handled_first;
    WholeMachine:
        datagrams_in_the_old_cpu_queue_are_handled_first;
}

/// The partition that moves from the first CPU to the second.
const PARTITION: u32 = 0;

/// A partition that stays with the first CPU.
const OTHER_PARTITION: u32 = 2;

/// Starts a runtime whose handlers collect the payload of each datagram. If the payload is the
/// single byte 0, the handler takes 150 ms.
fn start(
    net: &TestNet,
    way: Way,
    config: &XdpConfig,
) -> Result<(ThreadPerCoreRuntime, Arc<Mutex<Vec<u8>>>)> {
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
    let runtime = net.receiver.enter(|| {
        way.restrict();
        ThreadPerCoreRuntime::with_xdp(&ingest, config, handler)
    })?;
    Ok((runtime, handled))
}

/// Sends numbered datagrams before and during a move of the partition. Fails unless all of these
/// datagrams are handled in order.
fn send_and_move(
    net: &TestNet,
    way: Way,
    config: &XdpConfig,
    first: u8,
    prepare: impl FnOnce() -> Result<()>,
) -> Result<()> {
    const EACH: u8 = 20;
    let (runtime, handled) = start(net, way, config)?;
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

/// A real-time thread keeps the old CPU busy, so datagrams wait in that CPU's queue. The queue of
/// the new owner's CPU stays empty.
fn datagrams_in_the_old_cpu_queue_are_handled_first() -> Result<()> {
    let objects = ObjectSet::without_sockets_object()?;
    let modes = steering_modes().iter().map(|mode| Way::Xdp(*mode));
    let ways = modes.chain([Way::XdpAndClassic]).map(|way| (way, way.config(&objects)));
    // Test the multi-buffer object separately, because its CPU map accepts only multi-buffer
    // programs. To learn when a queue is empty, the loader sends a frame through the queue with
    // another program, and the map must accept that program as well.
    let native = config().attach_mode(XdpAttachMode::Native);
    let multi_buffer = kernel::has_multi_buffer().then(|| native.force_target("linux-5.18"));
    let multi_buffer = multi_buffer.map(|config| (Way::Xdp(XdpAttachMode::Native), config));
    // Without the kernel's live-frames mode, the loader cannot learn when a queue is empty, so it
    // waits for 200 ms instead. The CPU must not stay busy longer than that wait.
    let busy_for = Duration::from_millis(if kernel::runs_live_frames() { 400 } else { 150 });
    for (way, config) in ways.chain(multi_buffer) {
        let (net, config) = (TestNet::new()?, config.build()?);
        let [old, new] = two_cpus();
        let (begin, is_busy) = (Instant::now(), AtomicBool::new(false));
        let busy = |until: Duration| {
            testbed::become_real_time()?;
            is_busy.store(true, Ordering::Release);
            while begin.elapsed() < until {
                std::hint::spin_loop();
            }
            std::io::Result::Ok(())
        };
        std::thread::scope(|scope| -> Result<()> {
            let mut hog = None;
            // Send from the new owner's CPU: a veth device runs XDP on the CPU of the sender, and
            // the old owner's CPU is busy.
            let sent = testbed::on_cpu(new, || {
                send_and_move(&net, way, &config, 1, || {
                    let until = begin.elapsed() + busy_for;
                    let is_busy = &is_busy;
                    hog = Some(scope.spawn(move || testbed::on_cpu(old, || busy(until))));
                    while !is_busy.load(Ordering::Acquire) {
                        std::thread::yield_now();
                    }
                    Ok(())
                })
            })?;
            hog.context("no thread kept the CPU busy")?.join().expect("no panic")??;
            sent.with_context(|| format!("{config:?}"))
        })?;
    }
    Ok(())
}

/// The old owner takes 150 ms to handle the first datagram. Meanwhile the later datagrams wait in
/// the old owner's socket.
fn datagrams_in_the_old_socket_are_handled_first() -> Result<()> {
    let objects = ObjectSet::new()?;
    let ways = [Way::Classic, Way::Sockets, Way::Xdp(XdpAttachMode::Native)];
    for way in ways.into_iter().filter(|way| way.is_available()) {
        let net = TestNet::new()?;
        send_and_move(&net, way, &way.config(&objects).build()?, 0, || Ok(()))
            .with_context(|| format!("{way:?}"))?;
    }
    Ok(())
}

/// After the move, the kernel processes datagrams on the new owner's CPU. Classic BPF is not tested
/// here, because it keeps choosing the CPU that owned the partition at the start.
fn xdp_and_sockets_follow_a_move() -> Result<()> {
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
        // The kernel records the CPU that processed a datagram only for connected sockets.
        let sender = net.sending_socket()?;
        receivers[1].socket().connect(sender.local_addr()?)?;
        sender.send_to(&datagram(PARTITION, b""), TestNet::destination(PORT))?;
        let mut seen = 0;
        let begin = Instant::now();
        while seen == 0 && begin.elapsed() < Duration::from_secs(5) {
            seen += receivers[1].receive(Duration::from_millis(10), |_| {})?.handled;
        }
        let processed_on = SockRef::from(receivers[1].socket()).cpu_affinity()?;
        ensure!((seen, processed_on) == (1, new as usize), "{way:?}: {seen}, CPU {processed_on}");
    }
    Ok(())
}

/// With classic BPF, datagrams keep arriving on the CPU that owned the partition at the start, and
/// that CPU hands them over to the owner. While the partition moves back to that CPU, the CPU holds
/// the datagrams back, up to a limit. Beyond the limit, the CPU drops and counts the partition's
/// datagrams. It still handles its other partitions, and the move can still complete.
fn other_partitions_arrive_although_the_hold_back_limit_is_reached() -> Result<()> {
    const DATAGRAMS: u32 = 66_000;
    if datagrams() < 10_000 {
        // Skip this test on an emulated machine, which is too slow for it. Such machines run other
        // kernel versions, but the result does not depend on the kernel version.
        return Ok(());
    }
    let (namespace, objects) = (loopback()?, ObjectSet::without_sockets_object()?);
    // Keep the capabilities, because they allow a large socket buffer. The buffer must hold the
    // datagrams that the receiver does not read.
    let config = Way::XdpAndClassic.config(&objects).enabled(false).build()?;
    let open = || Ingest::open(&IngestConfig::new(two_cpus()), &config);
    let ingest = namespace.enter(open)?;
    ensure!(ingest.classic_bpf_reason().is_some());
    let [start, other] = two_cpus();
    let mut receivers = receivers(&ingest)?;
    // Moves the partition while the given receivers receive.
    let move_to = |cpu: u32, receivers: &mut [Receiver], seen: &mut Vec<u32>| -> Result<()> {
        std::thread::scope(|scope| -> Result<()> {
            let moving = scope.spawn(|| ingest.move_partition(PARTITION, cpu));
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
    let (mut others, mut others_sent) = (0, 0);
    for number in 0..DATAGRAMS {
        sender.send_to(&datagram(PARTITION, &number.to_be_bytes()), ("127.0.0.1", PORT))?;
        if number % 100 == 0 {
            sender.send_to(&datagram(OTHER_PARTITION, b""), ("127.0.0.1", PORT))?;
            others_sent += 1;
            let mut is_drained = false;
            while !is_drained {
                let received = receivers[0].receive(Duration::ZERO, |datagram| {
                    assert_eq!(datagram.partition, OTHER_PARTITION, "it must be held back");
                    others += 1;
                })?;
                is_drained = received.drained;
            }
            ensure!(others == others_sent, "{others} of {others_sent} after {number}");
        }
    }
    assert!(seen.is_empty());
    move_to(start, &mut receivers, &mut seen)?;
    let begin = Instant::now();
    while seen.len() < Receiver::MAX_HELD && begin.elapsed() < Duration::from_secs(5) {
        receivers[0].receive(Duration::from_millis(1), |datagram| {
            seen.extend(datagram.payload.try_into().map(u32::from_be_bytes));
        })?;
    }
    let held = DATAGRAMS - u32::try_from(ingest.stats()?.dropped_held)?;
    ensure!(held >= Receiver::MAX_HELD as u32 && held < DATAGRAMS, "{held} held");
    ensure!(seen == (0..held).collect::<Vec<_>>(), "{} of {held}", seen.len());
    Ok(())
}
