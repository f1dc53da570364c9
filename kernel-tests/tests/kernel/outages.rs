//! Processes that are killed, threads that die, and CPUs that go offline.

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
    Arrivals, OWNER_WAYS, ObjectSet, Owner, OwnerWay, PORT, Stream, Way, loopback, owner_of,
    send_a_thousand, sockets_only, steering_modes, tests, two_cpus, wait_until, with_cpu_offline,
};

tests! {
    Root:
        killed_owner_leaves_no_program_and_the_next_one_receives,
        program_left_without_a_link_is_replaced_by_the_next_owner;
    Namespaces:
        killed_owner_loses_only_its_buffered_datagrams,
        dead_thread_loses_one_datagram_and_a_new_thread_continues,
        handover_includes_datagrams_that_a_dead_thread_had_read;
    WholeMachine:
        offline_cpu_loses_and_reorders_no_datagram;
}

fn killed_owner_leaves_no_program_and_the_next_one_receives() -> Result<()> {
    for next in ["sockets", "native"] {
        let (net, arrivals, folder) = (TestNet::new()?, Arrivals::new()?, TempDir::new()?);
        let mut owner = Owner::start(&net, "native", &arrivals, folder.path(), None)?;
        Stream::new(&net, &arrivals)?.send_while(1000, || {
            std::thread::sleep(Duration::from_millis(50));
            Ok(())
        })?;
        ensure!(net.carries_xdp()?);
        owner.process.kill()?; // SIGKILL
        owner.process.wait()?;
        ensure!(
            wait_until(|| Ok(!net.carries_xdp()?))?,
            "the program is still attached 5 s after kill -9"
        );
        let arrivals = Arrivals::new()?;
        let _owner = Owner::start(&net, next, &arrivals, folder.path(), None)?;
        send_a_thousand(&net, &arrivals)?;
        ensure!(net.carries_xdp()? == (next == "native"));
    }
    Ok(())
}

/// Two kinds of datagrams are lost: those in the killed owner's buffers, and those that arrive
/// before the next owner starts. All other datagrams arrive exactly once and in order.
fn killed_owner_loses_only_its_buffered_datagrams() -> Result<()> {
    let ways = OWNER_WAYS.iter().filter(|way| {
        ["sockets", "classic", "native", "generic"].contains(&way.name) && way.way.is_available()
    });
    for &OwnerWay { name, .. } in ways {
        let (net, folder) = (TestNet::new()?, TempDir::new()?);
        let arrivals = [Arrivals::new()?, Arrivals::new()?];
        let mut owner = Owner::start(&net, name, &arrivals[0], folder.path(), None)?;
        let (stream, done) = (Mutex::new(Stream::new(&net, &arrivals[1])?), AtomicBool::new(false));
        let received_from = std::thread::scope(|scope| -> Result<Vec<u64>> {
            // This thread keeps sending while no process receives.
            let sending = scope.spawn(|| -> Result<()> {
                while !done.load(Relaxed) {
                    (0..10).try_for_each(|_| stream.lock().unwrap().send_one())?;
                    std::thread::sleep(Duration::from_millis(2));
                }
                Ok(())
            });
            let next = || stream.lock().unwrap().next.clone();
            // Waits until each sender has sent to each partition at least once more.
            let wait_for_a_round = || {
                let (begin, before) = (Instant::now(), next());
                while before.iter().zip(next()).any(|(before, now)| now < before + 1) {
                    ensure!(begin.elapsed() < Duration::from_secs(60), "sending is too slow");
                    std::thread::sleep(Duration::from_millis(10));
                }
                Ok(())
            };
            let mut work = || -> Result<Vec<u64>> {
                wait_for_a_round()?;
                owner.process.kill()?; // SIGKILL
                owner.process.wait()?;
                std::thread::sleep(Duration::from_millis(100));
                let _next = Owner::start(&net, name, &arrivals[1], folder.path(), None)?;
                let received_from = next();
                wait_for_a_round()?;
                done.store(true, Relaxed);
                let begin = Instant::now();
                let arrived = |(place, sent)| arrivals[1].seen(place).end == sent;
                // The sending thread may still have to send the last of its ten datagrams.
                while !sending.is_finished() || !next().into_iter().enumerate().all(arrived) {
                    let in_time = begin.elapsed() < Duration::from_secs(10);
                    ensure!(in_time, "{name}: not all datagrams arrived");
                    std::thread::sleep(Duration::from_millis(10));
                }
                Ok(received_from)
            };
            let received_from = work();
            done.store(true, Relaxed);
            sending.join().expect("no panic")?;
            received_from
        })?;
        let [before, after] = arrivals;
        before.check_order().with_context(|| format!("{name}, first owner"))?;
        after.check_order().with_context(|| format!("{name}, next owner"))?;
        ensure!(before.received() > 0 && after.received() > 0, "{name}: an owner got nothing");
        let sent = stream.into_inner().expect("no panic").next;
        for (place, (received_from, sent)) in received_from.into_iter().zip(sent).enumerate() {
            let (before, after) = (before.seen(place), after.seen(place));
            let text = format!(
                "{name}: of {sent} datagrams, the first owner got {before:?} and the next owner \
                 {after:?}; the next owner started before datagram {received_from}"
            );
            ensure!(before.start == 0 && before.end <= after.start, "{text}");
            ensure!(after.start <= received_from && after.end == sent, "{text}");
        }
    }
    Ok(())
}

/// Without a bpf_link, the program of a killed process stays attached and keeps steering. If the
/// next owner does not use XDP, the next owner still receives every datagram. If the next owner
/// uses XDP, it recognises the program and replaces it.
fn program_left_without_a_link_is_replaced_by_the_next_owner() -> Result<()> {
    for next in ["native, no links", "native", "generic"] {
        if next == "generic" && steering_modes().len() < 2 {
            continue;
        }
        let (net, arrivals, folder) = (TestNet::new()?, Arrivals::new()?, TempDir::new()?);
        let mut owner = Owner::start(&net, "native, no links", &arrivals, folder.path(), None)?;
        let before = net.attached_program()?;
        owner.process.kill()?;
        owner.process.wait()?;
        std::thread::sleep(Duration::from_millis(100));
        ensure!(net.attached_program()? == before, "the program changed");

        let arrivals = Arrivals::new()?;
        let owner = Owner::start(&net, "sockets", &arrivals, folder.path(), None)?;
        send_a_thousand(&net, &arrivals).context("the next owner without XDP")?;
        drop(owner);

        let arrivals = Arrivals::new()?;
        let owner = Owner::start(&net, next, &arrivals, folder.path(), None)?;
        send_a_thousand(&net, &arrivals)?;
        let now = net.attached_program()?;
        ensure!(now.is_some() && now != before, "{next}: {before:?}, {now:?}");
        owner.end()?;
        ensure!(net.attached_program()?.is_none());
    }
    Ok(())
}

/// One thread dies, and the other threads keep running. The datagrams for the dead thread wait. A
/// replacement thread continues after the datagram at which the first thread died.
fn dead_thread_loses_one_datagram_and_a_new_thread_continues() -> Result<()> {
    let objects = ObjectSet::without_sockets_object()?;
    [Way::Classic, Way::Xdp(XdpAttachMode::Native), Way::XdpAndClassic]
        .into_iter()
        .filter(|way| way.is_available())
        .try_for_each(|way| check_dead_thread(way, &objects).with_context(|| format!("{way:?}")))
}

fn check_dead_thread(way: Way, objects: &ObjectSet) -> Result<()> {
    let net = TestNet::new()?;
    let handled = Arc::new(AtomicU64::new(0));
    let handler = |partition| -> Handler {
        let handled = handled.clone();
        Box::new(move |datagram| {
            if datagram.payload == b"poison" {
                // Do not use panic!, because its message would appear between the test results.
                std::panic::resume_unwind(Box::new("poisoned"));
            }
            handled.fetch_add(1u64 << (32 * (partition % 2)), Relaxed);
        })
    };
    let (ingest, xdp) = (IngestConfig::new(two_cpus()), way.config(objects).build()?);
    let mut runtime = net.receiver.enter(|| {
        way.restrict();
        ThreadPerCoreRuntime::with_xdp(&ingest, &xdp, handler)
    })?;
    let sender = net.sending_socket()?;
    let send =
        |key, payload: &[u8]| sender.send_to(&datagram(key, payload), TestNet::destination(PORT));
    let wait_for = |even: u64, odd: u64| -> Result<()> {
        let in_time = wait_until(|| Ok(handled.load(Relaxed) == even | odd << 32))?;
        let now = handled.load(Relaxed);
        ensure!(in_time, "handled {} even and {} odd", now as u32, now >> 32);
        Ok(())
    };
    // Send without a pause, so that the thread reads other datagrams in one batch with the poison.
    for number in 0..100 {
        send(0, if number == 50 { b"poison" } else { b"even" })?;
    }
    wait_until(|| Ok(!runtime.dead_cpus().is_empty()))?;
    assert_eq!(runtime.dead_cpus(), [two_cpus()[0]]);
    for _ in 0..100 {
        send(1, b"odd")?;
        send(2, b"even")?;
    }
    wait_for(50, 100)?;
    let error = runtime.move_partition(0, two_cpus()[1]).unwrap_err();
    assert!(error.to_string().contains("no thread reads its socket"), "{error}");
    runtime.restart_dead()?;
    wait_for(199, 100)?;
    assert!(runtime.dead_cpus().is_empty());
    runtime.move_partition(0, two_cpus()[1])?;
    Ok(())
}

/// When a thread dies, some datagrams that the thread has read from its socket are not yet handled.
/// These datagrams must be handled on the dead thread's CPU, before the next process takes over.
/// The test lets a thread on another CPU hand over.
fn handover_includes_datagrams_that_a_dead_thread_had_read() -> Result<()> {
    let namespace = loopback()?;
    let [first, second] = two_cpus();
    let handled = Arc::new(Mutex::new(Vec::new()));
    let handler = |_| -> Handler {
        let handled = handled.clone();
        Box::new(move |datagram| {
            match datagram.payload {
                // While this handler sleeps, all other datagrams arrive, so the thread reads them
                // in one batch.
                b"slow" => std::thread::sleep(Duration::from_millis(300)),
                b"poison" => std::panic::resume_unwind(Box::new("poisoned")),
                _ => {}
            }
            let number = datagram.payload[0];
            handled.lock().unwrap().push((number, testbed::current_cpu()));
        })
    };
    let (to, config) = (IngestConfig::new(two_cpus()), sockets_only()?);
    let runtime = namespace.enter(|| ThreadPerCoreRuntime::with_xdp(&to, &config, handler))?;
    let sender = namespace.enter(|| UdpSocket::bind("127.0.0.1:0"))?;
    let send = |payload: &[u8]| sender.send_to(&datagram(0, payload), "127.0.0.1:9999");
    send(b"slow")?;
    send(b"poison")?;
    (0..20).try_for_each(|number| send(&[number]).map(drop))?;
    wait_until(|| Ok(!runtime.dead_cpus().is_empty()))?;
    assert_eq!(*handled.lock().unwrap(), [(b's', first)]);
    let (here, there) = UnixStream::pair()?;
    std::thread::scope(|scope| -> Result<()> {
        let next = scope.spawn(|| ThreadPerCoreRuntime::take_over(&to, &config, &there, handler));
        let handed_over = testbed::on_cpu(second, || runtime.hand_over(&here))?;
        handed_over.map_err(|failed| failed.1)?;
        let _next = next.join().expect("no panic")?;
        // The next process uses the same handler, so all 21 datagrams arrive in `handled`.
        wait_until(|| Ok(handled.lock().unwrap().len() >= 21))?;
        Ok(())
    })?;
    let left: Vec<_> = (0..20).map(|number| (number, first)).collect();
    assert_eq!(handled.lock().unwrap()[1..], left);
    Ok(())
}

/// While a CPU is offline, the kernel runs that CPU's queue and thread on another CPU.
fn offline_cpu_loses_and_reorders_no_datagram() -> Result<()> {
    let objects = ObjectSet::without_sockets_object()?;
    let last = two_cpus()[1];
    for way in [Way::Sockets, Way::Xdp(steering_modes()[0])] {
        let (net, arrivals) = (TestNet::new()?, Arrivals::new()?);
        let runtime = way.start(&net, &objects, &arrivals)?;
        let mut stream = Stream::new(&net, &arrivals)?;
        stream.send_while(1000, || {
            with_cpu_offline(last, || std::thread::sleep(Duration::from_millis(200)))
        })?;
        stream.check().with_context(|| format!("{way:?}"))?;
        drop(runtime);
    }
    check_thread_returns(last)
}

/// When a CPU goes offline, the kernel allows the CPU's thread to run on any CPU. Fails unless the
/// runtime pins the thread again within 10 seconds after the CPU is back online.
fn check_thread_returns(cpu: u32) -> Result<()> {
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
    let partition = (0..).find(|p| owner_of(*p) == cpu).context("a partition")?;
    let handled_on = || -> Result<(u32, Vec<u32>)> {
        sender.send_to(&datagram(partition, b""), ("127.0.0.1", PORT))?;
        let begin = Instant::now();
        loop {
            if let Some(here) = seen.lock().unwrap().take() {
                return Ok(here);
            }
            ensure!(begin.elapsed() < Duration::from_secs(5), "a datagram is not handled");
            std::thread::sleep(Duration::from_millis(1));
        }
    };
    let (away, _) = with_cpu_offline(cpu, handled_on)??;
    ensure!(away != cpu);
    let begin = Instant::now();
    loop {
        let (now, allowed) = handled_on()?;
        if (now, &allowed[..]) == (cpu, &[cpu]) {
            return Ok(());
        }
        ensure!(
            begin.elapsed() < Duration::from_secs(10),
            "the thread still runs on CPU {now}, and may run on {allowed:?}"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}
