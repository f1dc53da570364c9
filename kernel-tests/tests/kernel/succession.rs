//! Owners that are replaced in an orderly way, without a gap.

use std::io::{BufRead, BufReader};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc;

use anyhow::{Context, Result, bail, ensure};
use laminar_xdp::{Ingest, IngestConfig, SourceLimit, XdpAttachMode, XdpConfigBuilder, XdpError};
use tempfile::TempDir;
use testbed::frame::datagram;
use testbed::{TestNet, seccomp};

use crate::ingest::{Way, two_cores, without_sockets_object};
use crate::lifecycle::{BPF_LINK_CREATE, keep_only};
use crate::runtime::ThreadPerCoreRuntime;
use crate::stream::{Log, PARTITIONS, Stream, check_a_thousand, datagrams};
use crate::support::{becomes, config, steering_modes, tests};

tests! {
    replaced_ten_times_without_a_gap,
    a_successor_that_fails_changes_nothing,
    what_a_successor_is_configured_for,
}

/// The argument with which the test program is an owner until it hands over, is told to
/// stop or is killed. More follow: a name of [`WAYS`], the log, where its successor
/// finds it, and where it finds the one before it, if there is one.
pub const OWN: &str = "--own-ingest";

/// Ways by name, and whether links are forbidden, as before Linux 5.9.
const WAYS: [(&str, Way, bool); 7] = [
    ("sockets", Way::Sockets, false),
    ("classic", Way::Classic, false),
    ("native", Way::Xdp(XdpAttachMode::Native), false),
    ("generic", Way::Xdp(XdpAttachMode::Generic), false),
    ("native and classic", Way::XdpAndClassic, false),
    ("filter only", Way::FilterOnly, false),
    ("native, no links", Way::Xdp(XdpAttachMode::Native), true),
];

/// A partition that the first owner moves; its successors take over its owner too.
const MOVED: u32 = 0;

/// What the program does with that argument.
pub fn own(arguments: &[String]) -> Result<()> {
    let [name, log, mine, before @ ..] = arguments else { bail!("{arguments:?}") };
    let (_, way, no_links) = WAYS.into_iter().find(|(known, ..)| known == name).context("a way")?;
    let objects = without_sockets_object()?;
    let (log, config) = (Log::open(log)?, way.config(&objects).build()?);
    let ingest = IngestConfig::new(two_cores());
    if no_links {
        seccomp::deny_bpf_command(BPF_LINK_CREATE, libc::EINVAL)?;
    }
    if way == Way::Classic {
        keep_only(&[]);
    }
    let handler = |partition| log.handler(partition);
    let mut runtime = match before {
        [] => ThreadPerCoreRuntime::with_xdp(&ingest, &config, handler)?,
        [before, ..] => {
            let running = UnixStream::connect(before)?;
            ThreadPerCoreRuntime::take_over(&ingest, &config, &running, handler)?
        }
    };
    if before.is_empty() {
        runtime.move_partition(MOVED, two_cores()[1])?;
    }
    ensure!(runtime.ingest().owner(MOVED) == Some(two_cores()[1]));
    let listener = UnixListener::bind(mine)?;
    println!("at work: {}", runtime.ingest().mode());
    let (event, events) = mpsc::channel();
    let stop = event.clone();
    std::thread::spawn(move || {
        // A line, or the end of whoever started this.
        std::io::stdin().read_line(&mut String::new()).ok();
        stop.send(None)
    });
    std::thread::spawn(move || event.send(listener.accept().ok()));
    match events.recv()? {
        Some((successor, _)) => runtime.hand_over(&successor)?,
        None => println!("{:?}", runtime.xdp_stats()?),
    }
    println!("done");
    Ok(())
}

/// A process that owns the ingest. It ends with this value.
pub struct Owner {
    pub process: Child,
    output: BufReader<ChildStdout>,
    path: PathBuf,
}

impl Owner {
    pub fn start(
        wire: &TestNet,
        way: &str,
        log: &Log,
        folder: &Path,
        before: Option<&Owner>,
    ) -> Result<Owner> {
        let number = std::fs::read_dir(folder)?.count();
        let path = folder.join(number.to_string());
        let mut process = wire.receiver.enter(|| -> Result<Child> {
            let mut command = Command::new(std::env::current_exe()?);
            command.args([OWN, way]).arg(log.path()).arg(&path);
            command.args(before.map(|before| &before.path));
            Ok(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?)
        })?;
        let output = BufReader::new(process.stdout.take().context("no output")?);
        let mut owner = Owner { process, output, path };
        let line = owner.line()?;
        ensure!(line.starts_with("at work"), "{way}: {line:?}");
        Ok(owner)
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        Ok(line.trim().into())
    }

    /// Waits for its end, which is to be a good one. Gives what it said before.
    pub fn end(mut self) -> Result<String> {
        drop(self.process.stdin.take());
        let (mut said, mut line) = (String::new(), self.line()?);
        while line != "done" {
            ensure!(!line.is_empty(), "the owner ended in the middle: {said}");
            said = line;
            line = self.line()?;
        }
        ensure!(self.process.wait()?.success());
        Ok(said)
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// Each takes over from the one before, while datagrams arrive: once each, in order. The
/// counters go on as if there had been one process.
fn replaced_ten_times_without_a_gap() -> Result<()> {
    for (name, way, no_links) in WAYS {
        if matches!(way, Way::Xdp(mode) if !steering_modes().contains(&mode)) {
            continue;
        }
        // In full for what the promise is about; the rest is to be seen at all.
        let full = !no_links && matches!(way, Way::Xdp(_) | Way::Sockets);
        let (datagrams, times) = if full { (datagrams(), 10) } else { (datagrams() / 10, 3) };
        let times = if datagrams < 100_000 { 3 } else { times };
        let (wire, log, folder) = (TestNet::new()?, Log::new()?, TempDir::new()?);
        let mut owner = Owner::start(&wire, name, &log, folder.path(), None)?;
        let mut stream = Stream::new(&wire, &log)?;
        let program = || wire.attached_program();
        stream.go_on_while(datagrams, || {
            for _ in 0..times {
                let before = program()?;
                let next = Owner::start(&wire, name, &log, folder.path(), Some(&owner))?;
                std::mem::replace(&mut owner, next).end()?;
                let after = program()?;
                let replaced = before != after;
                ensure!(replaced == before.is_some(), "{name}: {before:?}, {after:?}");
            }
            Ok(())
        })?;
        log.check(&stream).context(name)?;
        for partition in 0..PARTITIONS {
            let start = if partition == MOVED as usize { 1 } else { partition % 2 };
            let (owner, cpus) = (two_cores()[start], log.cpus(partition));
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
    for (name, way, no_links) in WAYS {
        if way == Way::Xdp(XdpAttachMode::Generic) {
            continue; // as native
        }
        let (wire, log, folder) = (TestNet::new()?, Log::new()?, TempDir::new()?);
        let objects = without_sockets_object()?;
        let (config, to) = (way.config(&objects).build()?, IngestConfig::new(two_cores()));
        let mut ingest = wire.receiver.enter(|| -> Result<Ingest> {
            if no_links {
                seccomp::deny_bpf_command(BPF_LINK_CREATE, libc::EINVAL)?;
            }
            if way == Way::Classic {
                keep_only(&[]);
            }
            Ok(Ingest::open(&to, &config)?)
        })?;
        let program = wire.attached_program()?;
        for (killed, called_off) in [(false, true), (true, false), (true, true)] {
            let before = folder.path().join(format!("before {killed} {called_off}"));
            let listener = UnixListener::bind(&before)?;
            let mut successor = wire.receiver.enter(|| -> Result<Child> {
                let mut command = Command::new(std::env::current_exe()?);
                command.args([OWN, name]).arg(log.path()).arg(folder.path().join("never"));
                command.arg(&before).stdin(Stdio::piped()).stderr(Stdio::null());
                Ok(command.stdout(Stdio::null()).spawn()?)
            })?;
            let (stream, _) = listener.accept()?;
            let offer = wire.receiver.enter(|| ingest.offer(&stream))?;
            if killed {
                successor.kill()?;
                successor.wait()?;
            }
            if called_off {
                drop(offer);
                ensure!(!successor.wait()?.success(), "{name}");
                // Whatever is next puts things right.
                wire.receiver.enter(|| ingest.move_partition(1, two_cores()[1]))?;
            } else {
                let handed_over = wire.receiver.enter(|| ingest.hand_over(offer));
                ensure!(matches!(handed_over, Err(XdpError::HandOver { .. })), "{name}");
            }
            let now = wire.attached_program()?;
            ensure!(now == program, "{name}, killed: {killed}: {program:?}, {now:?}");
        }
        let handler = |partition| log.handler(partition);
        let (here, there) = UnixStream::pair()?;
        let runtime = std::thread::scope(|scope| -> Result<ThreadPerCoreRuntime> {
            let next = scope.spawn(|| {
                wire.receiver
                    .enter(|| ThreadPerCoreRuntime::take_over(&to, &config, &there, handler))
            });
            let offer = wire.receiver.enter(|| ingest.offer(&here))?;
            ingest.hand_over(offer)?;
            Ok(next.join().expect("no panic")?)
        })?;
        drop(ingest);
        ensure!(wire.carries_xdp()? == program.is_some(), "{name}");
        check_a_thousand(&wire, &log).context(name)?;
        wire.receiver.enter(|| drop(runtime));
        ensure!(!wire.carries_xdp()?, "{name}: nothing is left");
    }
    Ok(())
}

/// What it finds goes on as it is, steering above all, or it does not take over.
fn what_a_successor_is_configured_for() -> Result<()> {
    let wire = TestNet::new()?;
    let to = IngestConfig::new(two_cores());
    let mode = *steering_modes().last().context("a mode")?;
    let open = || Ingest::open(&to, &config().attach_mode(mode).build()?);
    let mut ingest = wire.receiver.enter(open)?;
    let program = wire.attached_program()?;
    let mut take_over = |config: XdpConfigBuilder| -> Result<Result<Ingest, XdpError>> {
        let (config, (here, there)) = (config.build()?, UnixStream::pair()?);
        std::thread::scope(|scope| {
            let next =
                scope.spawn(|| wire.receiver.enter(|| Ingest::take_over(&to, &config, &there)));
            let offer = wire.receiver.enter(|| ingest.offer(&here));
            if let Ok(offer) = offer {
                ingest.hand_over(offer)?;
            }
            Ok(next.join().expect("no panic"))
        })
    };
    let refused = take_over(config().interface("other0"))?.unwrap_err();
    ensure!(refused.to_string().contains("has XDP on lam0, this one is configured for other0"));
    ensure!(wire.attached_program()? == program);

    // A limit that none of its objects can keep is not given up in silence.
    let limit = SourceLimit { packets_per_second: 1, burst: 1 };
    let config_of = config().force_target("linux-5.3").source_limit(limit);
    let refused = take_over(config_of)?.unwrap_err();
    ensure!(matches!(refused, XdpError::NoUsableObject { .. }), "{refused}");
    ensure!(wire.attached_program()? == program);

    // This target filters only, in generic mode; where there is no steering in that, any
    // other does.
    let next = take_over(config().force_target("linux-5.3"))??;
    let sender = wire.sending_socket()?;
    (0..20).try_for_each(|key| {
        sender.send_to(&datagram(key, b""), TestNet::destination(9999)).map(drop)
    })?;
    becomes(|| Ok(next.stats()?.verdicts.redirected >= 20))?;
    let verdicts = next.stats()?.verdicts;
    ensure!(verdicts.redirected == 20, "{}: {verdicts:?}", next.mode());
    Ok(())
}
