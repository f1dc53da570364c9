//! Owners that are replaced in an orderly way, without a gap.

use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use laminar_xdp::{Ingest, IngestConfig, SourceLimit, XdpAttachMode, XdpConfigBuilder, XdpError};
use tempfile::TempDir;
use testbed::TestNet;
use testbed::frame::datagram;

use crate::runtime::ThreadPerCoreRuntime;
use crate::support::{
    Arrivals, MOVED, OWN, OWNER_WAYS, ObjectSet, Owner, OwnerWay, PARTITIONS, Stream, Way, config,
    datagrams, send_a_thousand, steering_modes, tests, two_cpus, wait_until,
};

tests! {
    Root:
        what_a_successor_is_configured_for;
    Namespaces:
        replaced_ten_times_without_a_gap,
        a_successor_that_fails_changes_nothing;
}

/// Each takes over from the one before, while datagrams arrive: once each, in order. The
/// counters go on as if there had been one process.
fn replaced_ten_times_without_a_gap() -> Result<()> {
    for OwnerWay { name, way, links } in OWNER_WAYS {
        if !way.is_available() {
            continue;
        }
        // In full for what the promise is about; the rest is to be seen at all.
        let full = links && matches!(way, Way::Xdp(_) | Way::Sockets);
        let (datagrams, times) = if full { (datagrams(), 10) } else { (datagrams() / 10, 3) };
        let times = if datagrams < 100_000 { 3 } else { times };
        let (net, log, folder) = (TestNet::new()?, Arrivals::new()?, TempDir::new()?);
        let mut owner = Owner::start(&net, name, &log, folder.path(), None)?;
        let mut stream = Stream::new(&net, &log)?;
        let program = || net.attached_program();
        stream.send_while(datagrams, || {
            for _ in 0..times {
                let before = program()?;
                let next = Owner::start(&net, name, &log, folder.path(), Some(&owner))?;
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
            let (owner, cpus) = (two_cpus()[start], log.cpus(partition));
            ensure!(cpus == 1 << owner, "{name}: partition {partition} on CPUs {cpus:#b}");
        }
        let stats = owner.end()?;
        let counted = format!("accepted: Some({}), overflowed: Some(0)", stream.sent);
        let classic = matches!(way, Way::Classic | Way::XdpAndClassic);
        ensure!(classic || stats.contains(&counted), "{name}: {stats}");
        // Never without a program: XDP has steered every one of them.
        let steered = format!(" redirected: {},", stream.sent);
        let steers = matches!(way, Way::Xdp(_) | Way::XdpAndClassic);
        ensure!(!steers || stats.contains(&steered), "{name}: {stats}");
        ensure!(program()?.is_none(), "{name}: the last one detaches");
    }
    Ok(())
}

/// Called off, or killed when it was ready: the program of the one before is at work as if
/// nothing had happened, the next successor takes over, and the end leaves nothing.
fn a_successor_that_fails_changes_nothing() -> Result<()> {
    for owner_way @ OwnerWay { name, way, .. } in OWNER_WAYS {
        if way == Way::Xdp(XdpAttachMode::Generic) {
            continue; // as native
        }
        let (net, log, folder) = (TestNet::new()?, Arrivals::new()?, TempDir::new()?);
        let objects = ObjectSet::without_sockets_object()?;
        let (config, to) = (way.config(&objects).build()?, IngestConfig::new(two_cpus()));
        let mut ingest = net.receiver.enter(|| -> Result<Ingest> {
            owner_way.restrict()?;
            Ok(Ingest::open(&to, &config)?)
        })?;
        let program = net.attached_program()?;
        for (killed, called_off) in [(false, true), (true, false), (true, true)] {
            let before = folder.path().join(format!("before {killed} {called_off}"));
            let listener = UnixListener::bind(&before)?;
            let mut successor = net.receiver.enter(|| -> Result<Child> {
                let mut command = Command::new(std::env::current_exe()?);
                command.args([OWN, name]).arg(log.path()).arg(folder.path().join("never"));
                command.arg(&before).stdin(Stdio::piped()).stderr(Stdio::null());
                Ok(command.stdout(Stdio::null()).spawn()?)
            })?;
            let (stream, _) = listener.accept()?;
            let offer = net.receiver.enter(|| ingest.offer(&stream))?;
            if killed {
                successor.kill()?;
                successor.wait()?;
            }
            if called_off {
                drop(offer);
                ensure!(!successor.wait()?.success(), "{name}");
                // Whatever is next puts things right.
                net.receiver.enter(|| ingest.move_partition(1, two_cpus()[1]))?;
            } else {
                let handed_over = net.receiver.enter(|| ingest.hand_over(offer));
                ensure!(matches!(handed_over, Err(XdpError::HandOver { .. })), "{name}");
            }
            let now = net.attached_program()?;
            ensure!(now == program, "{name}, killed: {killed}: {program:?}, {now:?}");
        }
        let handler = |partition| log.handler(partition);
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
        drop(ingest);
        ensure!(net.carries_xdp()? == program.is_some(), "{name}");
        send_a_thousand(&net, &log).context(name)?;
        net.receiver.enter(|| drop(runtime));
        ensure!(!net.carries_xdp()?, "{name}: nothing is left");
    }
    Ok(())
}

/// What it finds goes on as it is, steering above all, or it does not take over.
fn what_a_successor_is_configured_for() -> Result<()> {
    let net = TestNet::new()?;
    let to = IngestConfig::new(two_cpus());
    let mode = *steering_modes().last().context("a mode")?;
    let open = || Ingest::open(&to, &config().attach_mode(mode).build()?);
    let mut ingest = net.receiver.enter(open)?;
    let program = net.attached_program()?;
    let mut take_over = |config: XdpConfigBuilder| -> Result<Result<Ingest, XdpError>> {
        let (config, (here, there)) = (config.build()?, UnixStream::pair()?);
        std::thread::scope(|scope| {
            let next =
                scope.spawn(|| net.receiver.enter(|| Ingest::take_over(&to, &config, &there)));
            let offer = net.receiver.enter(|| ingest.offer(&here));
            if let Ok(offer) = offer {
                ingest.hand_over(offer)?;
            }
            Ok(next.join().expect("no panic"))
        })
    };
    let refused = take_over(config().interface("other0"))?.unwrap_err();
    ensure!(refused.to_string().contains("has XDP on lam0, this one is configured for other0"));
    ensure!(net.attached_program()? == program);

    // A limit that none of its objects can keep is not given up in silence.
    let limit = SourceLimit { packets_per_second: 1, burst: 1 };
    let config_of = config().force_target("linux-5.3").source_limit(limit);
    let refused = take_over(config_of)?.unwrap_err();
    ensure!(matches!(refused, XdpError::NoUsableObject { .. }), "{refused}");
    ensure!(net.attached_program()? == program);

    // This target filters only, in generic mode; where there is no steering in that, any
    // other does.
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
