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

use crate::artifacts::Set;
use crate::ingest::{Way, two_cores, without_sockets_object};
use crate::receiving::{PORT, loopback, owner_of, sockets_only};
use crate::runtime::{Handler, ThreadPerCoreRuntime};
use crate::stream::{Log, Stream, check_a_thousand};
use crate::succession::Owner;
use crate::support::{becomes, steering_modes, tests, with_cpu_offline};

tests! {
    kill_9_leaves_sockets,
    kill_9_in_the_middle,
    what_a_killed_process_left_is_replaced,
    a_thread_that_dies,
    what_a_dead_thread_left_is_handed_over,
}

tests! { ALONE: a_cpu_that_goes_offline }

/// The interface is free, and whoever comes next receives.
fn kill_9_leaves_sockets() -> Result<()> {
    for next in ["sockets", "native"] {
        let (wire, log, folder) = (TestNet::new()?, Log::new()?, TempDir::new()?);
        let mut owner = Owner::start(&wire, "native", &log, folder.path(), None)?;
        Stream::new(&wire, &log)?.go_on_while(1000, || {
            std::thread::sleep(Duration::from_millis(50));
            Ok(())
        })?;
        ensure!(wire.carries_xdp()?);
        owner.process.kill()?; // SIGKILL
        owner.process.wait()?;
        ensure!(becomes(|| Ok(!wire.carries_xdp()?))?, "a dead program 5 s after kill -9");
        let log = Log::new()?;
        let _owner = Owner::start(&wire, next, &log, folder.path(), None)?;
        check_a_thousand(&wire, &log)?;
        ensure!(wire.carries_xdp()? == (next == "native"));
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
        let (wire, folder) = (TestNet::new()?, TempDir::new()?);
        let logs = [Log::new()?, Log::new()?];
        let mut owner = Owner::start(&wire, name, &logs[0], folder.path(), None)?;
        let (stream, done) = (Mutex::new(Stream::new(&wire, &logs[1])?), AtomicBool::new(false));
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
                let _next = Owner::start(&wire, name, &logs[1], folder.path(), None)?;
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
        let (wire, log, folder) = (TestNet::new()?, Log::new()?, TempDir::new()?);
        let mut owner = Owner::start(&wire, "native, no links", &log, folder.path(), None)?;
        let before = wire.attached_program()?;
        owner.process.kill()?;
        owner.process.wait()?;
        std::thread::sleep(Duration::from_millis(100));
        ensure!(wire.attached_program()? == before, "it stays");

        let log = Log::new()?;
        let owner = Owner::start(&wire, "sockets", &log, folder.path(), None)?;
        check_a_thousand(&wire, &log).context("behind what was left")?;
        drop(owner);

        let log = Log::new()?;
        let owner = Owner::start(&wire, next, &log, folder.path(), None)?;
        check_a_thousand(&wire, &log)?;
        let now = wire.attached_program()?;
        ensure!(now.is_some() && now != before, "{next}: {before:?}, {now:?}");
        owner.end()?;
        ensure!(wire.attached_program()?.is_none());
    }
    Ok(())
}

/// The others go on; what was for it waits, and a new thread goes on behind the datagram
/// at which it died.
fn a_thread_that_dies() -> Result<()> {
    let objects = without_sockets_object()?;
    [Way::Xdp(XdpAttachMode::Native), Way::XdpAndClassic]
        .into_iter()
        .try_for_each(|way| thread_dies(way, &objects).with_context(|| format!("{way:?}")))
}

fn thread_dies(way: Way, objects: &Set) -> Result<()> {
    let wire = TestNet::new()?;
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
    let (ingest, xdp) = (IngestConfig::new(two_cores()), way.config(objects).build()?);
    let mut runtime =
        wire.receiver.enter(|| ThreadPerCoreRuntime::with_xdp(&ingest, &xdp, handler))?;
    let sender = wire.sending_socket()?;
    let send =
        |key, payload: &[u8]| sender.send_to(&datagram(key, payload), TestNet::destination(PORT));
    let both = |even: u64, odd: u64| -> Result<()> {
        let in_time = becomes(|| Ok(handled.load(Relaxed) == even | odd << 32))?;
        let now = handled.load(Relaxed);
        ensure!(in_time, "{} {}", now as u32, now >> 32);
        Ok(())
    };
    // In one go, so that datagrams are taken from the socket together with the poison.
    for number in 0..100 {
        send(0, if number == 50 { b"poison" } else { b"even" })?;
    }
    becomes(|| Ok(!runtime.dead_cores().is_empty()))?;
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
                b"slow" => std::thread::sleep(Duration::from_millis(300)),
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
    becomes(|| Ok(!runtime.dead_cores().is_empty()))?;
    assert_eq!(*handled.lock().unwrap(), [(b's', first)]);
    let (here, there) = UnixStream::pair()?;
    std::thread::scope(|scope| -> Result<()> {
        let next = scope.spawn(|| ThreadPerCoreRuntime::take_over(&to, &config, &there, handler));
        testbed::on_cpu(second, || runtime.hand_over(&here))??;
        let _next = next.join().expect("no panic")?;
        // Had it come late, it would be the next process's.
        becomes(|| Ok(handled.lock().unwrap().len() >= 21))?;
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
        let (wire, log) = (TestNet::new()?, Log::new()?);
        let runtime = way.start(&wire, &objects, &log)?;
        let mut stream = Stream::new(&wire, &log)?;
        stream.go_on_while(1000, || {
            with_cpu_offline(last, || std::thread::sleep(Duration::from_millis(200)))
        })?;
        log.check(&stream).with_context(|| format!("{way:?}"))?;
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
    let (to, config) = (IngestConfig::new(two_cores()), sockets_only()?);
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
