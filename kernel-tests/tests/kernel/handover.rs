//! Hand-overs: a new process takes over ingest from the running process.

use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use laminar_xdp::{
    Ingest, IngestConfig, SourceLimit, XdpAttachMode, XdpConfig, XdpConfigBuilder, XdpError,
};
use tempfile::TempDir;
use testbed::TestNet;
use testbed::frame::datagram;
use testbed::stress::send_signal;

use crate::runtime::ThreadPerCoreRuntime;
use crate::support::{
    Arrivals, MOVED, OWN, OWNER_WAYS, ObjectSet, Owner, OwnerWay, PARTITIONS, PORT, Stream, Way,
    config, datagrams, send_a_thousand, steering_modes, tests, two_cpus, wait_until,
};

tests! {
    Root:
        successor_keeps_interface_limits_and_steering_or_fails,
        late_successor_leaves_the_serving_program_alone,
        stalled_successor_stops_the_service_for_a_second_only;
    Namespaces:
        ten_handovers_lose_and_reorder_no_datagram,
        failed_handover_leaves_the_owner_unchanged;
}

/// Each process takes over from its predecessor while datagrams arrive. The counters continue
/// as if a single process had received everything.
fn ten_handovers_lose_and_reorder_no_datagram() -> Result<()> {
    for OwnerWay { name, way, links } in OWNER_WAYS {
        if !way.is_available() {
            continue;
        }
        // For some ways, the documentation promises a hand-over without loss. Test these ways with
        // the full number of datagrams, and the other ways with fewer.
        let full = links && matches!(way, Way::Xdp(_) | Way::Sockets);
        let (datagrams, times) = if full { (datagrams(), 10) } else { (datagrams() / 10, 3) };
        let times = if datagrams < 100_000 { 3 } else { times };
        let (net, arrivals, folder) = (TestNet::new()?, Arrivals::new()?, TempDir::new()?);
        let mut owner = Owner::start(&net, name, &arrivals, folder.path(), None)?;
        let mut stream = Stream::new(&net, &arrivals)?;
        let program = || net.attached_program();
        stream.send_while(datagrams, || {
            for _ in 0..times {
                let before = program()?;
                let next = Owner::start(&net, name, &arrivals, folder.path(), Some(&owner))?;
                std::mem::replace(&mut owner, next).end()?;
                let after = program()?;
                let replaced = before != after;
                ensure!(replaced == before.is_some(), "{name}: {before:?}, {after:?}");
            }
            Ok(())
        })?;
        stream.check().context(name)?;
        for partition in 0..PARTITIONS {
            let start = if partition == MOVED as usize { 1 } else { partition % 2 };
            let (owner, cpus) = (two_cpus()[start], arrivals.cpus(partition));
            ensure!(cpus == 1 << owner, "{name}: partition {partition} on CPUs {cpus:#b}");
        }
        let stats = owner.end()?;
        let counted = format!("accepted: Some({}), overflowed: Some(0)", stream.sent);
        let classic = matches!(way, Way::Classic | Way::XdpAndClassic);
        ensure!(classic || stats.contains(&counted), "{name}: {stats}");
        // XDP steered every datagram, so the interface had a program at all times.
        let steered = format!(" redirected: {},", stream.sent);
        let steers = matches!(way, Way::Xdp(_) | Way::XdpAndClassic);
        ensure!(!steers || stats.contains(&steered), "{name}: {stats}");
        ensure!(program()?.is_none(), "{name}: the last owner did not detach its program");
    }
    Ok(())
}

/// A hand-over fails: either the owner withdraws its offer, or the successor is killed as soon as
/// it is ready. The owner's program stays attached. The next successor takes over, and detaches its
/// own program when it ends.
fn failed_handover_leaves_the_owner_unchanged() -> Result<()> {
    for owner_way @ OwnerWay { name, way, .. } in OWNER_WAYS {
        // Skip generic mode, because a hand-over takes the same steps in generic mode as in native
        // mode.
        if way == Way::Xdp(XdpAttachMode::Generic) || !way.is_available() {
            continue;
        }
        let (net, arrivals, folder) = (TestNet::new()?, Arrivals::new()?, TempDir::new()?);
        let objects = ObjectSet::without_sockets_object()?;
        let (config, to) = (way.config(&objects).build()?, IngestConfig::new(two_cpus()));
        let mut ingest = open(&net, owner_way, &config)?;
        let program = net.attached_program()?;
        for (killed, withdrawn) in [(false, true), (true, false), (true, true)] {
            let (mut successor, stream) = successor(&net, name, &arrivals, folder.path())?;
            let offer = net.receiver.enter(|| ingest.offer(&stream))?;
            if killed {
                successor.kill()?;
                successor.wait()?;
            }
            if withdrawn {
                // Without bpf_links, dropping the offer attaches the old program again. The attach
                // happens in the network namespace of the thread that drops the offer.
                net.receiver.enter(|| drop(offer));
                ensure!(!successor.wait()?.success(), "{name}");
            } else {
                let failed = net.receiver.enter(|| ingest.hand_over(offer)).expect_err(name);
                ensure!(matches!(failed.error, XdpError::HandOver { .. }), "{name}");
                ingest = *failed.ingest;
            }
            let now = net.attached_program()?;
            ensure!(now == program, "{name}, killed: {killed}: {program:?}, {now:?}");
        }
        let handler = |partition| arrivals.handler(partition);
        let (here, there) = UnixStream::pair()?;
        let runtime = std::thread::scope(|scope| -> Result<ThreadPerCoreRuntime> {
            let next = scope.spawn(|| {
                net.receiver
                    .enter(|| ThreadPerCoreRuntime::take_over(&to, &config, &there, handler))
            });
            let offer = net.receiver.enter(|| ingest.offer(&here))?;
            ingest.hand_over(offer)?;
            Ok(next.join().expect("no panic")?)
        })?;
        ensure!(net.carries_xdp()? == program.is_some(), "{name}");
        send_a_thousand(&net, &arrivals).context(name)?;
        net.receiver.enter(|| drop(runtime));
        ensure!(!net.carries_xdp()?, "{name}: a program is still attached");
    }
    Ok(())
}

/// A successor takes over only if it uses the same interface and its object supports the limits in
/// its configuration. If its object cannot steer, the predecessor's program stays attached.
fn successor_keeps_interface_limits_and_steering_or_fails() -> Result<()> {
    let net = TestNet::new()?;
    let to = IngestConfig::new(two_cpus());
    let mode = *steering_modes().last().context("a mode")?;
    let open = || Ingest::open(&to, &config().attach_mode(mode).build()?);
    let mut ingest = Some(net.receiver.enter(open)?);
    let program = net.attached_program()?;
    let mut take_over = |config: XdpConfigBuilder| -> Result<Result<Ingest, XdpError>> {
        let (config, (here, there)) = (config.build()?, UnixStream::pair()?);
        std::thread::scope(|scope| {
            let next =
                scope.spawn(|| net.receiver.enter(|| Ingest::take_over(&to, &config, &there)));
            let serving = ingest.take().expect("ingest is not handed over yet");
            match net.receiver.enter(|| serving.offer(&here)) {
                Ok(offer) => serving.hand_over(offer)?,
                Err(_) => ingest = Some(serving),
            }
            Ok(next.join().expect("no panic"))
        })
    };
    let refused = take_over(config().interface("other0"))?.unwrap_err();
    ensure!(refused.to_string().contains("has XDP on lam0, this one is configured for other0"));
    ensure!(net.attached_program()? == program);

    // No object of this target supports limits. The take-over must fail. A take-over that succeeds
    // would ignore the configured limit.
    let limit = SourceLimit::per_second(1).burst(1);
    let config_of = config().force_target("linux-5.3").source_limit(limit);
    let refused = take_over(config_of)?.unwrap_err();
    ensure!(matches!(refused, XdpError::NoUsableObject { .. }), "{refused}");
    ensure!(net.attached_program()? == program);

    // This target's object does not steer in generic mode. If the successor uses generic mode, the
    // predecessor's program therefore stays attached. In native mode, the object steers and
    // replaces the predecessor's program.
    let next = take_over(config().force_target("linux-5.3"))??;
    let sender = net.sending_socket()?;
    (0..20).try_for_each(|key| {
        sender.send_to(&datagram(key, b""), TestNet::destination(9999)).map(drop)
    })?;
    wait_until(|| Ok(next.stats()?.verdicts.redirected >= 20))?;
    let verdicts = next.stats()?.verdicts;
    ensure!(verdicts.redirected == 20, "{}: {verdicts:?}", next.mode());
    Ok(())
}

/// A successor is stopped when it is ready. Its offer is withdrawn, and another successor takes
/// over. When the stopped successor continues, it must not touch the program of the process that
/// serves.
fn late_successor_leaves_the_serving_program_alone() -> Result<()> {
    for name in ["native", "generic", "native, no links"] {
        let owner = OwnerWay::named(name).context("no such way")?;
        if !owner.way.is_available() {
            continue;
        }
        let (net, arrivals, folder) = (TestNet::new()?, Arrivals::new()?, TempDir::new()?);
        let objects = ObjectSet::without_sockets_object()?;
        let config = owner.way.config(&objects).build()?;
        let to = IngestConfig::new(two_cpus());
        let old = open(&net, owner, &config)?;
        let (mut late, stream) = successor(&net, name, &arrivals, folder.path())?;
        let offer = old.offer(&stream)?;
        ensure!(net.attached_program()? != Some(old.interfaces()[0].program_id()?));
        send_signal(late.id(), libc::SIGSTOP)?;
        net.receiver.enter(|| drop(offer));
        let own = Some(old.interfaces()[0].program_id()?);
        ensure!(net.attached_program()? == own, "the withdrawn offer left another program");

        let (here, there) = UnixStream::pair()?;
        let serving = std::thread::scope(|scope| -> Result<Ingest> {
            let take_over = || {
                net.receiver.enter(|| -> Result<Ingest> {
                    owner.restrict()?;
                    Ok(Ingest::take_over(&to, &config, &there)?)
                })
            };
            let serving = scope.spawn(take_over);
            let offer = old.offer(&here)?;
            old.hand_over(offer)?;
            serving.join().expect("no panic")
        })?;
        let program = Some(serving.interfaces()[0].program_id()?);
        ensure!(net.attached_program()? == program, "{name}: the successor's program");
        send_signal(late.id(), libc::SIGCONT)?;
        ensure!(!late.wait()?.success(), "the late successor took over");
        ensure!(net.attached_program()? == program, "{name}: the late successor's program");
        net.receiver.enter(|| drop(serving));
        ensure!(net.attached_program()?.is_none());
    }
    Ok(())
}

/// Opens ingest in the receiver's namespace, with the restrictions of a way.
fn open(net: &TestNet, owner: OwnerWay, config: &XdpConfig) -> Result<Ingest> {
    net.receiver.enter(|| {
        owner.restrict()?;
        Ok(Ingest::open(&IngestConfig::new(two_cpus()), config)?)
    })
}

/// Starts a child process that takes over, and returns it with the stream to it.
fn successor(
    net: &TestNet,
    way: &str,
    arrivals: &Arrivals,
    folder: &Path,
) -> Result<(Child, UnixStream)> {
    let number = std::fs::read_dir(folder)?.count();
    let [old, new] = ["old", "new"].map(|name| folder.join(format!("{name} {number}")));
    let listener = UnixListener::bind(&old)?;
    let process = net.receiver.enter(|| -> Result<Child> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args([OWN, way]).arg(arrivals.path()).args([new, old]);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        Ok(command.spawn()?)
    })?;
    Ok((process, listener.accept()?.0))
}

/// A successor is stopped after it is ready. The old process gets its ingest back after the
/// patience and continues. The successor cannot take over when it continues.
fn stalled_successor_stops_the_service_for_a_second_only() -> Result<()> {
    for name in ["native", "sockets"] {
        let owner = OwnerWay::named(name).context("no such way")?;
        if !owner.way.is_available() {
            continue;
        }
        let (net, arrivals, folder) = (TestNet::new()?, Arrivals::new()?, TempDir::new()?);
        let objects = ObjectSet::without_sockets_object()?;
        let config = owner.way.config(&objects).build()?;
        let old = open(&net, owner, &config)?;
        let own = net.attached_program()?;
        let (mut stalled, stream) = successor(&net, name, &arrivals, folder.path())?;
        let offer = old.offer(&stream)?;
        send_signal(stalled.id(), libc::SIGSTOP)?;
        let begin = Instant::now();
        let failed = old.hand_over(offer).err().context("a stopped process took over")?;
        let took = begin.elapsed();
        // A busy machine may take longer than the patience of 1 s.
        ensure!((1..10).contains(&took.as_secs()), "{name}: {took:?}");
        let old = *failed.ingest;
        ensure!(net.attached_program()? == own, "{name}: the program was not put back");
        net.sending_socket()?.send_to(&datagram(0, b"x"), TestNet::destination(PORT))?;
        let mut receiver = old.receiver(two_cpus()[0])?;
        let receive = || Ok(receiver.receive(Duration::from_millis(10), |_| {})?.handled == 1);
        ensure!(wait_until(receive)?, "{name}: the old process does not receive");
        send_signal(stalled.id(), libc::SIGCONT)?;
        ensure!(!stalled.wait()?.success(), "{name}: the stalled successor took over");
        ensure!(net.attached_program()? == own, "{name}: the stalled successor's program");
    }
    Ok(())
}
