//! Delivers the datagrams of each partition to the CPU that owns it. Each CPU has one socket. If
//! the kernel and the interface support XDP, packets pass through XDP before the sockets.

mod datagram;
mod drain;
mod handover;
mod mailbox;
mod migration;
mod ownership;
mod receiver;
mod sockets;

use std::sync::{Arc, Mutex};

use laminar_xdp_prebuilt::abi;

use crate::artifact::Artifact;
use crate::config::{IngestConfig, XdpAttachMode, XdpConfig};
use crate::ingest::handover::Stage;
use crate::ingest::mailbox::Mailboxes;
use crate::ingest::migration::DrainRequests;
use crate::ingest::ownership::Ownership;
use crate::ingest::sockets::{SocketGroup, selector};
use crate::object::{KernelFeatures, SharedMaps, capabilities, settings};
use crate::partitions::Partitions;
use crate::report::{IngestMode, IngestStats, Selection, XdpCounter, XdpError};
use crate::sync::lock;
use crate::xdp::{XdpControls, XdpInterface, XdpLoader};

pub use handover::{HandOverError, Offer};
pub use receiver::Receiver;

/// Delivers each partition's datagrams to the thread of the CPU that owns the partition,
/// with or without XDP.
///
/// Each CPU's thread takes its [`Receiver`]. Every partition has an owner at all times. No
/// datagram is lost or duplicated, and the datagrams of one sender and partition keep their
/// order. These guarantees also hold while a partition moves ([`Ingest::move_partition`]) and
/// while a new process takes over ([`Ingest::take_over`]). Datagrams of different senders have no
/// order. If XDP steers, a sender's fragmented datagrams have no order relative to its whole
/// datagrams: XDP passes fragments to the stack, so they bypass the CPU queues.
/// `docs/order-and-guarantees.md` in the repository lists the exceptions.
///
/// Dropping the ingest detaches XDP. The port is free once the receivers are dropped as
/// well. An ingest can be shared between threads.
///
/// ```no_run
/// use std::time::Duration;
/// use laminar_xdp::{Ingest, IngestConfig, XdpConfig};
///
/// let xdp_config = XdpConfig::builder().enabled(true).interface("eth0").build()?;
/// let ingest = Ingest::open(&IngestConfig::new(0..4), &xdp_config)?;
/// println!("{}", ingest.mode());
/// std::thread::scope(|scope| {
///     for &cpu in ingest.cpus() {
///         let mut receiver = ingest.receiver(cpu)?;
///         scope.spawn(move || {
///             receiver.pin_thread()?;
///             loop {
///                 receiver.receive(Duration::from_millis(20), |datagram| {
///                     println!("{} from {}", datagram.partition, datagram.sender);
///                 })?;
///             }
/// #           #[allow(unreachable_code)]
/// #           Ok::<(), laminar_xdp::XdpError>(())
///         });
///     }
///     ingest.move_partition(5, 3) // while traffic goes on
/// })?;
/// # Ok::<(), laminar_xdp::XdpError>(())
/// ```
#[derive(Debug)]
#[must_use = "dropping the ingest closes its sockets and detaches XDP"]
pub struct Ingest {
    // Dropped first, so that XDP never steers a packet to a closed socket.
    xdp: Option<XdpLoader>,
    mode: IngestMode,
    sockets: Arc<SocketGroup>,
    ownership: Arc<Ownership>,
    mailboxes: Arc<Mailboxes>,
    partitions: Arc<Partitions>,
    /// Locked while a partition moves, so that moves and hand-overs exclude each other.
    stage: Arc<Mutex<Stage>>,
    drain_requests: Mutex<DrainRequests>,
    /// The configuration that another process must have in order to take over.
    terms: String,
}

/// All parts of an ingest except XDP.
struct Parts {
    sockets: SocketGroup,
    ownership: Arc<Ownership>,
    mailboxes: Arc<Mailboxes>,
    partitions: Arc<Partitions>,
    terms: String,
}

impl Drop for Ingest {
    fn drop(&mut self) {
        let mut stage = lock(&self.stage);
        // Detaching removes only a program of this process. After a withdrawn offer, another
        // process may have replaced that program. `check_serving` then attaches this process's
        // program again.
        stage.check_serving().ok();
        // An offer that outlives the ingest must not attach its programs again.
        *stage = Stage::Closed;
    }
}

impl Ingest {
    /// Opens a socket for each CPU, installs a program that selects the socket by partition,
    /// and attaches XDP.
    ///
    /// If XDP cannot be used, the ingest works with sockets alone. [`IngestMode::Sockets`]
    /// then holds the reason. One warning is logged, unless the configuration disables XDP.
    /// If [`XdpConfig::fallback_on_error`] is false, a failure of XDP is an error instead.
    ///
    /// With CAP_BPF and Linux 4.19 or later, eBPF programs from the same set of objects select
    /// the sockets and filter their datagrams. Otherwise classic BPF programs do this, but they
    /// cannot count by reason. XDP needs the capabilities that [`XdpLoader::load_and_attach`]
    /// names; sockets alone need none. Acts in the network namespace of the calling thread.
    /// Blocks for some tens of milliseconds.
    ///
    /// # Errors
    /// [`XdpError::Config`] for a value out of range, [`XdpError::PortTaken`],
    /// [`XdpError::TooManySockets`] and [`XdpError::Socket`]; without fallback also every
    /// error of [`XdpLoader::load_and_attach`]. After an error nothing stays open or attached.
    pub fn open(config: &IngestConfig, xdp_config: &XdpConfig) -> Result<Ingest, XdpError> {
        config.validate()?;
        xdp_config.validate()?;
        let partitions = Arc::new(Partitions::new(xdp_config.partitions, &config.cpus)?);
        let (address, buffer) = (config.address, config.receive_buffer);
        let sockets = sockets::bind(address, xdp_config.port, &config.cpus, buffer)?;
        let mailboxes = Arc::new(Mailboxes::new(&sockets)?);
        let initial_owners = partitions.all().map(|p| partitions.initial_owner(p));
        let ownership = Arc::new(Ownership::new(initial_owners));
        let artifact = Artifact::find(&xdp_config.bpf_object_path).map_err(XdpError::from);
        let mut features = KernelFeatures::default();
        let settings = settings(xdp_config, partitions.count());
        let selector = selector::choose(&settings, &partitions, artifact.as_ref(), &mut features);
        let group = SocketGroup::open(sockets, selector, &settings, &partitions, None)?;
        let loader = match xdp_config.enabled {
            true => artifact.and_then(|artifact| {
                let table = group.table().map(|table| (abi::LAMINAR_MAP_STEERING, table));
                let shared: SharedMaps = table.as_slice();
                let partitions = partitions.clone();
                XdpLoader::load(xdp_config, partitions, artifact, &mut features, shared)
            }),
            false => Err(XdpError::Disabled),
        };
        let port = group.port().unwrap_or(xdp_config.port);
        let terms = handover::terms(address, port, &partitions);
        let parts = Parts { sockets: group, ownership, mailboxes, partitions, terms };
        let ingest = Self::assemble(loader, parts, xdp_config)?;
        ingest.warn_of_classic_bpf();
        Ok(ingest)
    }

    /// Builds the ingest from its parts and XDP, or from its parts and the error of XDP.
    fn assemble(
        loader: Result<XdpLoader, XdpError>,
        parts: Parts,
        xdp_config: &XdpConfig,
    ) -> Result<Ingest, XdpError> {
        let Parts { sockets, ownership, mailboxes, partitions, terms } = parts;
        let (xdp, mode) = match loader {
            Ok(loader) => {
                let mode = match (loader.steers(), loader.mode()) {
                    (false, mode) => IngestMode::FilterOnly(mode),
                    (true, XdpAttachMode::Generic) => IngestMode::XdpGeneric,
                    (true, _) => IngestMode::XdpNative,
                };
                (Some(loader), mode)
            }
            Err(XdpError::Disabled) => (None, IngestMode::Sockets(XdpError::Disabled)),
            Err(error) if xdp_config.fallback_on_error => {
                let reason = error.with_causes().to_string();
                let classic_bpf_reason = sockets.classic_bpf_reason();
                tracing::warn!(reason, classic_bpf_reason, "continuing without XDP");
                (None, IngestMode::Sockets(error))
            }
            Err(error) => return Err(error),
        };
        let sockets = Arc::new(sockets);
        let stage = Arc::new(Mutex::new(Stage::Serving));
        let drain_requests = Mutex::new(DrainRequests::new());
        Ok(Ingest {
            xdp,
            mode,
            sockets,
            ownership,
            mailboxes,
            partitions,
            stage,
            drain_requests,
            terms,
        })
    }

    /// Warns that the sockets' filters do not count reasons. Logs nothing if the warning about XDP
    /// already said so. Also logs nothing if the process lacks the capability to load eBPF
    /// programs, because only classic BPF is possible without that capability.
    fn warn_of_classic_bpf(&self) {
        let is_warned = match &self.mode {
            IngestMode::Sockets(error) => !matches!(error, XdpError::Disabled),
            _ => false,
        };
        if let (false, Some(reason)) = (is_warned, self.classic_bpf_reason())
            && capabilities::may_load()
        {
            tracing::warn!(reason, "classic BPF selects the sockets and counts no reasons");
        }
    }

    /// Takes the receiver of one CPU. After that receiver is dropped, the next call returns a new
    /// receiver. The new receiver gets the datagrams that the dropped receiver did not handle.
    ///
    /// # Errors
    /// [`XdpError::UnknownCpu`] if [`IngestConfig::cpus`] does not contain the CPU,
    /// [`XdpError::ReceiverInUse`] if its receiver is in use, [`XdpError::Socket`] if the process
    /// cannot open more descriptors.
    pub fn receiver(&self, cpu: u32) -> Result<Receiver, XdpError> {
        let index = self.partitions.index_of(cpu)?;
        let cpu = self.partitions.cpu(index);
        let socket = self.sockets.sockets()[usize::from(index.get())].clone();
        Receiver::new(cpu, index, socket, self.ownership.clone(), self.mailboxes.clone())
    }

    /// How datagrams reach the CPUs that own their partitions.
    pub fn mode(&self) -> &IngestMode {
        &self.mode
    }

    /// The interfaces that carry XDP, with mode and selection of each; empty without XDP.
    pub fn interfaces(&self) -> &[XdpInterface] {
        self.xdp.as_ref().map(XdpLoader::interfaces).unwrap_or_default()
    }

    /// Which XDP object the loader selected, and why it did not select the others; `None`
    /// without XDP.
    pub fn selection(&self) -> Option<&Selection> {
        self.xdp.as_ref().map(XdpLoader::selection)
    }

    /// Why classic BPF selects the sockets; `None` if a loaded eBPF program selects them. Only eBPF
    /// programs count datagrams by reason.
    ///
    /// With classic BPF, the datagrams of a partition that has moved still arrive at the socket of
    /// the partition's first owner. The receiver of that CPU hands the datagrams on, so they wait
    /// while that CPU has no receiver. A move does not replace the classic program: the kernel
    /// frees a replaced classic program while packets still run through it, and Linux 6.18 crashed.
    pub fn classic_bpf_reason(&self) -> Option<&str> {
        self.sockets.classic_bpf_reason()
    }

    /// The size of each socket's receive buffer in bytes, as the kernel granted it.
    ///
    /// # Errors
    /// [`XdpError::Socket`] if the kernel does not answer.
    pub fn receive_buffer(&self) -> Result<u32, XdpError> {
        sockets::receive_buffer(&self.sockets.sockets()[0])
            .map_err(|error| XdpError::socket("read the size of a receive buffer", error))
    }

    /// The UDP port. If the configured port is 0, returns the port that the kernel chose.
    ///
    /// # Errors
    /// [`XdpError::Socket`] if the kernel does not answer.
    pub fn port(&self) -> Result<u16, XdpError> {
        let port = self.sockets.port();
        port.map_err(|error| XdpError::socket("read the address of a socket", error))
    }

    /// Reads the counters of XDP and of the sockets from the kernel.
    ///
    /// # Errors
    /// [`XdpError::Kernel`] and [`XdpError::Socket`] if the kernel does not answer.
    pub fn stats(&self) -> Result<IngestStats, XdpError> {
        let xdp = self.xdp.as_ref().map(XdpLoader::stats).transpose()?;
        let counts = self.sockets.counts();
        let counts =
            counts.map_err(|error| XdpError::socket("read the counters of the sockets", error))?;
        let misplaced = match self.sockets.loaded() {
            Some(_) => self.mailboxes.handed_on(),
            // With classic BPF, the first owner's receiver hands on the datagrams of moved
            // partitions. These are not misplaced.
            None => self.mailboxes.misplaced(),
        };
        let mut stats = IngestStats::new(xdp, counts.by_reason, counts.dropped, misplaced);
        stats.dropped_handoff = self.mailboxes.dropped();
        stats.dropped_held = self.mailboxes.dropped_held();
        Ok(stats)
    }

    /// Reads the counters of XDP and of the sockets' filters for each CPU, in packets and in
    /// bytes. Counters that are 0 are left out. With classic BPF the filters count nothing.
    ///
    /// # Errors
    /// [`XdpError::Kernel`] and [`XdpError::Socket`] if the kernel does not answer.
    pub fn counters(&self) -> Result<Vec<XdpCounter>, XdpError> {
        let mut counters = self.xdp.as_ref().map_or(Ok(Vec::new()), XdpLoader::counters)?;
        let of_sockets = self.sockets.counters();
        counters.extend(
            of_sockets
                .map_err(|error| XdpError::socket("read the counters of the sockets", error))?,
        );
        Ok(counters)
    }

    /// The controls of the XDP program: ports, limits, source lists and drop samples; `None`
    /// without XDP. Only XDP enforces limits and source lists: with sockets alone every
    /// source may send.
    pub fn controls(&self) -> Option<&XdpControls> {
        self.xdp.as_ref().map(XdpLoader::controls)
    }

    /// The number of partitions.
    pub fn partitions(&self) -> u32 {
        self.partitions.count()
    }

    /// The ids of the CPUs that own partitions.
    pub fn cpus(&self) -> &[u32] {
        self.partitions.cpus()
    }

    /// The CPU that owns a partition now; `None` if there is no such partition.
    pub fn owner(&self, partition: u32) -> Option<u32> {
        let partition = self.partitions.partition(partition).ok()?;
        Some(self.partitions.cpu(self.ownership.owner(partition)).get())
    }
}
