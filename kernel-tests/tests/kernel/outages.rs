//! Processes that are killed, threads that die, and CPUs that go.

use std::net::UdpSocket;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use laminar_xdp::{IngestConfig, XdpAttachMode};
use tempfile::TempDir;
use testbed::TestNet;
use testbed::frame::datagram;

use crate::runtime::{Handler, ThreadPerCoreRuntime};
use crate::support::{
    Arrivals, ObjectSet, Owner, PORT, Stream, Way, loopback, owner_of, send_a_thousand,
    sockets_only, steering_modes, tests, two_cpus, wait_until, with_cpu_offline,
};

tests! {
    Root:
        kill_9_leaves_sockets,
        kill_9_in_the_middle,
        what_a_killed_process_left_is_replaced,
        a_thread_that_dies;
    Namespaces:
        what_a_dead_thread_left_is_handed_over;
    WholeMachine:
        a_cpu_that_goes_offline;
}

/// The interface is free, and whoever comes next receives.
fn kill_9_leaves_sockets() -> Result<()> {
    for next in ["sockets", "native"] {
        let (net, log, folder) = (TestNet::new()?, Arrivals::new()?, TempDir::new()?);
        let mut owner = Owner::start(&net, "native", &log, folder.path(), None)?;
        Stream::new(&net, &log)?.send_while(1000, || {
            std::thread::sleep(Duration::from_millis(50));
            Ok(())
        })?;
        ensure!(net.carries_xdp()?);
        owner.process.kill()?; // SIGKILL
        owner.process.wait()?;
        ensure!(wait_until(|| Ok(!net.carries_xdp()?))?, "a dead program 5 s after kill -9");
        let log = Arrivals::new()?;
        let _owner = Owner::start(&net, next, &log, folder.path(), None)?;
        send_a_thousand(&net, &log)?;
        ensure!(net.carries_xdp()? == (next == "native"));
    }
    Ok(())
}

/// What was in its buffers is gone, and what came while nobody had the port, and nothing
/// else: what arrived before and after is all there was, in order.
fn kill_9_in_the_middle() -> Result<()> {
    for name in ["sockets", "classic", "native", "generic"] {
        if name == "generic" && steering_modes().len() < 2 {
            continue;
        }
        let (net, folder) = (TestNet::new()?, TempDir::new()?);
        let logs = [Arrivals::new()?, Arrivals::new()?];
        let mut owner = Owner::start(&net, name, &logs[0], folder.path(), None)?;
        let (stream, done) = (Mutex::new(Stream::new(&net, &logs[1])?), AtomicBool::new(false));
        let at_work = std::thread::scope(|scope| -> Result<Vec<u64>> {
            // Whether anybody receives or not.
            let sending = scope.spawn(|| -> Result<()> {
                while !done.load(Relaxed) {
                    (0..10).try_for_each(|_| stream.lock().unwrap().send_one())?;
                    std::thread::sleep(Duration::from_millis(2));
                }
                Ok(())
            });
            let next = || stream.lock().unwrap().next.clone();
            // Until each sender has sent to each partition again.
            let some = || {
                let (begin, before) = (Instant::now(), next());
                while before.iter().zip(next()).any(|(before, now)| now < before + 1) {
                    ensure!(begin.elapsed() < Duration::from_secs(60), "it is hardly sent");
                    std::thread::sleep(Duration::from_millis(10));
                }
                Ok(())
            };
            let mut work = || -> Result<Vec<u64>> {
                some()?;
                owner.process.kill()?; // SIGKILL
                owner.process.wait()?;
                std::thread::sleep(Duration::from_millis(100));
                let _next = Owner::start(&net, name, &logs[1], folder.path(), None)?;
                let at_work = next();
                some()?;
                done.store(true, Relaxed);
                let begin = Instant::now();
                let arrived = |(place, sent)| logs[1].seen(place).end == sent;
                // Its last ten may be on their way.
                while !sending.is_finished() || !next().into_iter().enumerate().all(arrived) {
                    ensure!(begin.elapsed() < Duration::from_secs(10), "{name}: not all arrives");
                    std::thread::sleep(Duration::from_millis(10));
                }
                Ok(at_work)
            };
            let at_work = work();
            done.store(true, Relaxed);
            sending.join().expect("no panic")?;
            at_work
        })?;
        let [before, after] = logs;
        before.check_order().with_context(|| format!("{name}, before"))?;
        after.check_order().with_context(|| format!("{name}, after"))?;
        ensure!(before.received() > 0 && after.received() > 0, "{name}: nothing arrives");
        let sent = stream.into_inner().expect("no panic").next;
        for (place, (at_work, sent)) in at_work.into_iter().zip(sent).enumerate() {
            let (before, after) = (before.seen(place), after.seen(place));
            let text = format!("{name}: {before:?}, {after:?} of {sent}, at work from {at_work}");
            ensure!(before.start == 0 && before.end <= after.start, "{text}");
            ensure!(after.start <= at_work && after.end == sent, "{text}");
        }
    }
    Ok(())
}

/// Without links the program stays when its process is killed, and hands packets over as
/// before: nothing is lost behind it, and the next process knows it as ours. One whose
/// owner lives is left alone.
fn what_a_killed_process_left_is_replaced() -> Result<()> {
    for next in ["native, no links", "native", "generic"] {
        if next == "generic" && steering_modes().len() < 2 {
            continue;
        }
        let (net, log, folder) = (TestNet::new()?, Arrivals::new()?, TempDir::new()?);
        let mut owner = Owner::start(&net, "native, no links", &log, folder.path(), None)?;
        let before = net.attached_program()?;
        owner.process.kill()?;
        owner.process.wait()?;
        std::thread::sleep(Duration::from_millis(100));
        ensure!(net.attached_program()? == before, "it stays");

        let log = Arrivals::new()?;
        let owner = Owner::start(&net, "sockets", &log, folder.path(), None)?;
        send_a_thousand(&net, &log).context("behind what was left")?;
        drop(owner);

        let log = Arrivals::new()?;
        let owner = Owner::start(&net, next, &log, folder.path(), None)?;
        send_a_thousand(&net, &log)?;
        let now = net.attached_program()?;
        ensure!(now.is_some() && now != before, "{next}: {before:?}, {now:?}");
        owner.end()?;
        ensure!(net.attached_program()?.is_none());
    }
    Ok(())
}

/// The others go on; what was for it waits, and a new thread goes on behind the datagram
/// at which it died.
fn a_thread_that_dies() -> Result<()> {
    let objects = ObjectSet::without_sockets_object()?;
    [Way::Xdp(XdpAttachMode::Native), Way::XdpAndClassic]
        .into_iter()
        .try_for_each(|way| thread_dies(way, &objects).with_context(|| format!("{way:?}")))
}

fn thread_dies(way: Way, objects: &ObjectSet) -> Result<()> {
    let net = TestNet::new()?;
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
    let (ingest, xdp) = (IngestConfig::new(two_cpus()), way.config(objects).build()?);
    let mut runtime =
        net.receiver.enter(|| ThreadPerCoreRuntime::with_xdp(&ingest, &xdp, handler))?;
    let sender = net.sending_socket()?;
    let send =
        |key, payload: &[u8]| sender.send_to(&datagram(key, payload), TestNet::destination(PORT));
    let both = |even: u64, odd: u64| -> Result<()> {
        let in_time = wait_until(|| Ok(handled.load(Relaxed) == even | odd << 32))?;
        let now = handled.load(Relaxed);
        ensure!(in_time, "{} {}", now as u32, now >> 32);
        Ok(())
    };
    // In one go, so that datagrams are taken from the socket together with the poison.
    for number in 0..100 {
        send(0, if number == 50 { b"poison" } else { b"even" })?;
    }
    wait_until(|| Ok(!runtime.dead_cores().is_empty()))?;
    assert_eq!(runtime.dead_cores(), [two_cpus()[0]]);
    for _ in 0..100 {
        send(1, b"odd")?;
        send(2, b"even")?;
    }
    both(50, 100)?;
    let error = runtime.move_partition(0, two_cpus()[1]).unwrap_err();
    assert!(error.to_string().contains("nobody reads its socket"), "{error}");
    runtime.restart_dead()?;
    both(199, 100)?;
    assert!(runtime.dead_cores().is_empty());
    runtime.move_partition(0, two_cpus()[1])?;
    Ok(())
}

/// What it had taken from its socket is handled before another process begins, and on its
/// CPU, whichever one hands over.
fn what_a_dead_thread_left_is_handed_over() -> Result<()> {
    let namespace = loopback()?;
    let [first, second] = two_cpus();
    let handled = Arc::new(Mutex::new(Vec::new()));
    let handler = |_| -> Handler {
        let handled = handled.clone();
        Box::new(move |datagram| {
            match datagram.payload {
                // So long that the rest is taken from the socket together.
                b"slow" => std::thread::sleep(Duration::from_millis(300)),
                b"poison" => std::panic::resume_unwind(Box::new("poisoned")),
                _ => {}
            }
            let number = datagram.payload[0];
            handled.lock().unwrap().push((number, testbed::current_cpu()));
        })
    };
    let (to, config) = (IngestConfig::new(two_cpus()), sockets_only()?);
    let mut runtime = namespace.enter(|| ThreadPerCoreRuntime::with_xdp(&to, &config, handler))?;
    let sender = namespace.enter(|| UdpSocket::bind("127.0.0.1:0"))?;
    let send = |payload: &[u8]| sender.send_to(&datagram(0, payload), "127.0.0.1:9999");
    send(b"slow")?;
    send(b"poison")?;
    (0..20).try_for_each(|number| send(&[number]).map(drop))?;
    wait_until(|| Ok(!runtime.dead_cores().is_empty()))?;
    assert_eq!(*handled.lock().unwrap(), [(b's', first)]);
    let (here, there) = UnixStream::pair()?;
    std::thread::scope(|scope| -> Result<()> {
        let next = scope.spawn(|| ThreadPerCoreRuntime::take_over(&to, &config, &there, handler));
        testbed::on_cpu(second, || runtime.hand_over(&here))??;
        let _next = next.join().expect("no panic")?;
        // Had it come late, it would be the next process's.
        wait_until(|| Ok(handled.lock().unwrap().len() >= 21))?;
        Ok(())
    })?;
    let left: Vec<_> = (0..20).map(|number| (number, first)).collect();
    assert_eq!(handled.lock().unwrap()[1..], left);
    Ok(())
}

/// The kernel runs its queue and its thread on another CPU: nothing is lost, and nobody
/// is overtaken. When it is back, so is the queue.
fn a_cpu_that_goes_offline() -> Result<()> {
    let objects = ObjectSet::without_sockets_object()?;
    let last = two_cpus()[1];
    for way in [Way::Sockets, Way::Xdp(steering_modes()[0])] {
        let (net, log) = (TestNet::new()?, Arrivals::new()?);
        let runtime = way.start(&net, &objects, &log)?;
        let mut stream = Stream::new(&net, &log)?;
        stream.send_while(1000, || {
            with_cpu_offline(last, || std::thread::sleep(Duration::from_millis(200)))
        })?;
        stream.check().with_context(|| format!("{way:?}"))?;
        drop(runtime);
    }
    the_thread_is_back_too(last)
}

/// Within seconds its thread is bound to it again, where the kernel has let it go.
fn the_thread_is_back_too(core: u32) -> Result<()> {
    let (namespace, seen) = (loopback()?, Arc::new(Mutex::new(None)));
    let handler = |_| -> Handler {
        let seen = seen.clone();
        Box::new(move |_| {
            let here = (testbed::current_cpu(), testbed::allowed_cpus());
            *seen.lock().unwrap() = Some(here);
        })
    };
    let (to, config) = (IngestConfig::new(two_cpus()), sockets_only()?);
    let _runtime = namespace.enter(|| ThreadPerCoreRuntime::with_xdp(&to, &config, handler))?;
    let sender = namespace.enter(|| UdpSocket::bind("127.0.0.1:0"))?;
    let partition = (0..).find(|p| owner_of(*p) == core).context("a partition")?;
    let handled_on = || -> Result<(u32, Vec<u32>)> {
        sender.send_to(&datagram(partition, b""), ("127.0.0.1", PORT))?;
        let begin = Instant::now();
        loop {
            if let Some(here) = seen.lock().unwrap().take() {
                return Ok(here);
            }
            ensure!(begin.elapsed() < Duration::from_secs(5), "it is not handled");
            std::thread::sleep(Duration::from_millis(1));
        }
    };
    let (away, _) = with_cpu_offline(core, handled_on)??;
    ensure!(away != core);
    let begin = Instant::now();
    loop {
        let (cpu, allowed) = handled_on()?;
        if (cpu, &allowed[..]) == (core, &[core]) {
            return Ok(());
        }
        ensure!(begin.elapsed() < Duration::from_secs(10), "it is on CPU {cpu} of {allowed:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
