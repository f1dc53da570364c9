//! The ways in which datagrams reach the owner of their partition, each with its configuration.

use anyhow::Result;
use laminar_xdp::{Ingest, IngestConfig, IngestMode, XdpAttachMode, XdpConfigBuilder};
use testbed::{Namespace, TestNet, kernel};

use super::arrivals::{Arrivals, PARTITIONS};
use super::config::config;
use super::machine::two_cpus;
use super::objects::ObjectSet;
use super::privileges::privileges;
use super::restrictions::keep_only;
use super::stream::datagrams;
use crate::runtime::ThreadPerCoreRuntime;

/// How datagrams reach their owner: what steers the packets, and what chooses the socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// There is no XDP program. A BPF object chooses the socket.
    Sockets,
    /// There is no XDP program. Classic BPF chooses the socket, because the process has no
    /// capabilities.
    Classic,
    /// XDP steers, and a BPF object chooses the socket.
    Xdp(XdpAttachMode),
    /// XDP steers in native mode, and classic BPF chooses the socket. On kernels before 4.19, this
    /// is the best available way.
    XdpAndClassic,
    /// XDP only filters: it runs in generic mode, with an object that does not steer in generic
    /// mode.
    FilterOnly,
}

/// The modes in which the running kernel must be able to steer.
pub fn steering_modes() -> &'static [XdpAttachMode] {
    let both = &[XdpAttachMode::Native, XdpAttachMode::Generic];
    if kernel::generic_mode_redirects() { both } else { &both[..1] }
}

/// Every way that the kernel and the caller's privileges allow, each with the number of datagrams
/// to send.
pub fn ways() -> Vec<(Way, u64)> {
    let steering = steering_modes().iter().map(|mode| (Way::Xdp(*mode), datagrams()));
    let sockets = [(Way::Sockets, datagrams())];
    // Send at least 1000, so that every sender reaches every partition.
    let few = (datagrams() / 10).max(1000);
    let rest = [Way::Classic, Way::XdpAndClassic, Way::FilterOnly].map(|way| (way, few));
    let all = sockets.into_iter().chain(steering).chain(rest);
    all.filter(|(way, _)| way.is_available()).collect()
}

impl Way {
    /// Whether the kernel and the caller's privileges allow this way. `Way::Classic` is always
    /// allowed.
    pub fn is_available(self) -> bool {
        match self {
            Way::Classic => true,
            Way::Xdp(mode) => privileges().load_programs() && steering_modes().contains(&mode),
            _ => privileges().load_programs(),
        }
    }

    /// The configuration of an owner. `objects` must be a set without an object for sockets.
    pub fn config(self, objects: &ObjectSet) -> XdpConfigBuilder {
        let config = config().partitions(PARTITIONS as u32);
        match self {
            Way::Sockets | Way::Classic => config.enabled(false),
            Way::Xdp(mode) => config.attach_mode(mode),
            Way::XdpAndClassic => config.bpf_object_path(objects.path("")),
            Way::FilterOnly => config.attach_mode(XdpAttachMode::Generic).force_target("linux-5.3"),
        }
    }

    /// Drops the capabilities of the calling thread if this way is for a process without
    /// capabilities.
    pub fn restrict(self) {
        if self == Way::Classic {
            keep_only(&[]);
        }
    }

    /// Opens ingest in a namespace, without a runtime.
    pub fn open(
        self,
        namespace: &Namespace,
        to: &IngestConfig,
        objects: &ObjectSet,
    ) -> Result<Ingest> {
        let config = self.config(objects).build()?;
        namespace.enter(|| {
            self.restrict();
            Ok(Ingest::open(to, &config)?)
        })
    }

    /// Starts a runtime in the receiver's namespace.
    pub fn start(
        self,
        net: &TestNet,
        objects: &ObjectSet,
        arrivals: &Arrivals,
    ) -> Result<ThreadPerCoreRuntime> {
        let (ingest, config) = (IngestConfig::new(two_cpus()), self.config(objects).build()?);
        let runtime = net.receiver.enter(|| {
            self.restrict();
            let handler = |partition| arrivals.handler(partition);
            ThreadPerCoreRuntime::with_xdp(&ingest, &config, handler)
        })?;
        let classic = matches!(self, Way::Classic | Way::XdpAndClassic);
        assert_eq!(runtime.ingest().classic_bpf_reason().is_some(), classic, "{self:?}");
        let mode = runtime.ingest().mode();
        let as_expected = match self {
            Way::Sockets | Way::Classic => matches!(mode, IngestMode::Sockets(_)),
            Way::Xdp(XdpAttachMode::Generic) => matches!(mode, IngestMode::XdpGeneric),
            Way::Xdp(_) | Way::XdpAndClassic => matches!(mode, IngestMode::XdpNative),
            Way::FilterOnly => matches!(mode, IngestMode::FilterOnly(XdpAttachMode::Generic)),
        };
        assert!(as_expected, "{self:?}: {mode}");
        Ok(runtime)
    }
}

/// A way for an owner that runs as a child process.
#[derive(Debug, Clone, Copy)]
pub struct OwnerWay {
    /// The name that is passed to the child process.
    pub name: &'static str,
    pub way: Way,
    /// Whether the process can use bpf_links for XDP. If false, the process behaves as on a kernel
    /// before 5.9, which has no bpf_links for XDP.
    pub links: bool,
}

const fn with_links(name: &'static str, way: Way) -> OwnerWay {
    OwnerWay { name, way, links: true }
}

/// All ways of owners. Check [`Way::is_available`] before using one.
pub const OWNER_WAYS: [OwnerWay; 7] = [
    with_links("sockets", Way::Sockets),
    with_links("classic", Way::Classic),
    with_links("native", Way::Xdp(XdpAttachMode::Native)),
    with_links("generic", Way::Xdp(XdpAttachMode::Generic)),
    with_links("native and classic", Way::XdpAndClassic),
    with_links("filter only", Way::FilterOnly),
    OwnerWay { name: "native, no links", way: Way::Xdp(XdpAttachMode::Native), links: false },
];

impl OwnerWay {
    pub fn named(name: &str) -> Option<OwnerWay> {
        OWNER_WAYS.into_iter().find(|way| way.name == name)
    }

    /// Restricts the calling thread to the capabilities and bpf() commands of this way.
    pub fn restrict(self) -> std::io::Result<()> {
        if !self.links {
            super::restrictions::fail_link_create(libc::EINVAL)?;
        }
        self.way.restrict();
        Ok(())
    }
}
