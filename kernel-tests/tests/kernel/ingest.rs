//! The promise: each partition's datagrams at the thread that owns it, once, and in order
//! for each sender, in every mode and while partitions move.

use anyhow::{Context, Result, ensure};
use laminar_xdp::{IngestConfig, IngestMode, XdpAttachMode, XdpConfigBuilder};
use testbed::TestNet;

use crate::artifacts::Set;
use crate::lifecycle::keep_only;
use crate::runtime::ThreadPerCoreRuntime;
use crate::stream::{Log, PARTITIONS, Stream, datagrams};
use crate::support::{config, cores, steering_modes, tests};

tests! {
    in_order_in_every_mode,
    in_order_while_partitions_move,
}

/// A way in which datagrams reach their owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// An object chooses the socket, without XDP.
    Sockets,
    /// The same without any rights: classic BPF chooses.
    Classic,
    /// XDP, and the same object for the sockets.
    Xdp(XdpAttachMode),
    /// XDP in native mode, and classic BPF for the sockets, as before Linux 4.19.
    XdpAndClassic,
    /// XDP in generic mode with an object that cannot steer there.
    FilterOnly,
}

/// Every way that the kernel has, with how many datagrams are sent on it.
pub fn ways() -> Vec<(Way, u64)> {
    let steering = steering_modes().iter().map(|mode| (Way::Xdp(*mode), datagrams()));
    let sockets = [(Way::Sockets, datagrams())];
    // Enough for every sender to reach every partition.
    let some = (datagrams() / 10).max(1000);
    let rest = [Way::Classic, Way::XdpAndClassic, Way::FilterOnly].map(|way| (way, some));
    sockets.into_iter().chain(steering).chain(rest).collect()
}

impl Way {
    /// How an owner is configured; `objects` are those of [`without_sockets_object`].
    pub fn config(self, objects: &Set) -> XdpConfigBuilder {
        let config = config().partitions(PARTITIONS as u32);
        match self {
            Way::Sockets | Way::Classic => config.enabled(false),
            Way::Xdp(mode) => config.attach_mode(mode),
            Way::XdpAndClassic => config.bpf_object_path(objects.path("")),
            Way::FilterOnly => config.attach_mode(XdpAttachMode::Generic).force_target("linux-5.3"),
        }
    }

    /// Starts in the receiver's namespace.
    pub fn start(self, wire: &TestNet, objects: &Set, log: &Log) -> Result<ThreadPerCoreRuntime> {
        let (ingest, config) = (IngestConfig::new(two_cores()), self.config(objects).build()?);
        let runtime = wire.receiver.enter(|| {
            if self == Way::Classic {
                keep_only(&[]);
            }
            ThreadPerCoreRuntime::with_xdp(&ingest, &config, |partition| log.handler(partition))
        })?;
        let classic = matches!(self, Way::Classic | Way::XdpAndClassic);
        assert_eq!(runtime.ingest().classic_reason().is_some(), classic, "{self:?}");
        let mode = runtime.ingest().mode();
        let is_it = match self {
            Way::Sockets | Way::Classic => matches!(mode, IngestMode::Sockets(_)),
            Way::Xdp(XdpAttachMode::Generic) => matches!(mode, IngestMode::XdpGeneric),
            Way::Xdp(_) | Way::XdpAndClassic => matches!(mode, IngestMode::XdpNative),
            Way::FilterOnly => matches!(mode, IngestMode::FilterOnly(XdpAttachMode::Generic)),
        };
        assert!(is_it, "{self:?}: {mode}");
        Ok(runtime)
    }
}

pub fn two_cores() -> Vec<u32> {
    cores()[..2].to_vec()
}

/// The checked-in objects without those for sockets.
pub fn without_sockets_object() -> Result<Set> {
    let set = Set::new()?;
    let mut manifest = set.manifest()?;
    manifest.objects.retain(|object| object.layer == laminar_xdp_prebuilt::Layer::Xdp);
    set.write_manifest(&manifest.to_toml()?)?;
    Ok(set)
}

/// Fails unless the counters say that everything that was sent went to a socket and
/// nothing overflowed.
fn check_counters(way: Way, runtime: &ThreadPerCoreRuntime, sent: u64) -> Result<()> {
    let stats = runtime.xdp_stats()?;
    let text = format!("{way:?}: {stats:?}");
    assert_eq!((stats.misplaced, stats.verdicts.dropped), (0, 0), "{text}");
    match runtime.ingest().classic_reason() {
        None => assert_eq!((stats.accepted, stats.overflowed), (Some(sent), Some(0)), "{text}"),
        Some(_) => assert_eq!((stats.accepted, stats.overflowed), (None, None), "{text}"),
    }
    match way {
        Way::Xdp(_) | Way::XdpAndClassic => assert_eq!(stats.verdicts.redirected, sent, "{text}"),
        Way::Sockets | Way::FilterOnly => assert_eq!(stats.verdicts.passed, sent, "{text}"),
        Way::Classic => {}
    }
    Ok(())
}

fn in_order_in_every_mode() -> Result<()> {
    let objects = without_sockets_object()?;
    for (way, datagrams) in ways() {
        let (wire, log) = (TestNet::new()?, Log::new()?);
        let runtime = way.start(&wire, &objects, &log)?;
        let mut stream = Stream::new(&wire, &log)?;
        stream.send(datagrams)?;
        stream.finish()?;
        log.check(&stream).with_context(|| format!("{way:?}"))?;
        for partition in 0..PARTITIONS {
            let owner = two_cores()[partition % 2];
            assert_eq!(log.cpus(partition), 1 << owner, "{way:?}, partition {partition}");
        }
        check_counters(way, &runtime, stream.sent)?;
    }
    Ok(())
}

/// How often something happens while a stream goes on: 100 times in a million datagrams.
pub fn times(datagrams: u64) -> u64 {
    (datagrams / 10_000).max(5)
}

fn in_order_while_partitions_move() -> Result<()> {
    let objects = without_sockets_object()?;
    for (way, datagrams) in ways() {
        let (wire, log) = (TestNet::new()?, Log::new()?);
        let runtime = way.start(&wire, &objects, &log)?;
        let mut stream = Stream::new(&wire, &log)?;
        stream.go_on_while(datagrams, || {
            for round in 0..times(datagrams) as usize {
                // Away from where it starts, and in the next round back.
                let partition = round / 2 * 29 % PARTITIONS;
                let core = two_cores()[(partition + 1 + round) % 2];
                runtime.move_partition(partition as u32, core)?;
                ensure!(runtime.ingest().owner(partition as u32) == Some(core));
            }
            Ok(())
        })?;
        log.check(&stream).with_context(|| format!("{way:?}"))?;
        check_counters(way, &runtime, stream.sent)?;
    }
    Ok(())
}
