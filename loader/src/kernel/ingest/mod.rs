//! Sockets, with XDP in front of them where it can be: the one entry point.

mod choice;
mod estate;
mod fence;
mod moving;
mod peer;
mod receiver;
mod succession;
mod turns;

use std::sync::{Arc, Mutex};

use laminar_xdp_prebuilt::abi;

use crate::artifact::Artifact;
use crate::config::{XdpAttachMode, XdpConfig};
use crate::error::XdpError;
use crate::ingest::{IngestConfig, IngestMode, IngestStats};
use crate::kernel::controls::XdpControls;
use crate::kernel::ingest::turns::Turns;
use crate::kernel::loader::XdpLoader;
use crate::kernel::rights;
use crate::kernel::sockets::{self, Group};
use crate::kernel::steering::Steering;
use crate::select::Selection;
use crate::stats::XdpCounter;

pub use receiver::Receiver;
pub use succession::Offer;

/// The datagrams of each partition at the CPU that owns it, with XDP or without. Every
/// partition has an owner at all times. Dropping it detaches XDP; the port is free when
/// the receivers are dropped as well.
///
/// One thread for each CPU takes its [`Receiver`]; `examples/thread_per_core` is a
/// runtime to copy. While a partition moves ([`Ingest::move_partition`]) and when a new
/// process takes over, no datagram is lost, none arrives twice, and those of one sender
/// and partition keep their order. Between senders there is none, nor between a sender's
/// whole and fragmented datagrams with XDP, which has to pass fragments by the CPUs'
/// queues; and a network that reorders is nothing that could be mended here.
#[derive(Debug)]
pub struct Ingest {
    // Dropped first: no packet is steered to a socket that is gone.
    xdp: Option<XdpLoader>,
    mode: IngestMode,
    group: Group,
    turns: Arc<Turns>,
    steering: Arc<Steering>,
    /// Taken by whoever moves a partition.
    stage: Arc<Mutex<Stage>>,
    /// Another process serves.
    handed_over: bool,
    /// What another process has to be configured for to take over.
    terms: String,
}

/// Who serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Serving,
    /// Another process gets ready, or serves already; nothing moves.
    Offered,
    /// It did not come to that. The other's programs may be in the place of ours, with our
    /// tables.
    CalledOff,
}

impl Drop for Ingest {
    fn drop(&mut self) {
        // What is detached has to be ours.
        drop(self.stage());
    }
}

impl Ingest {
    /// Opens a socket for each core, has them chosen by partition, and puts XDP in front
    /// of them. Whatever keeps XDP from that is the reason in [`IngestMode::Sockets`] and
    /// one warning, unless [`XdpConfig::fallback_on_error`] is off; switched off in the
    /// configuration, it is no reason to warn.
    ///
    /// With CAP_BPF and from Linux 4.19 on an object of the same set chooses and filters;
    /// without, and where the set has none, classic BPF does, which cannot count by
    /// reason. XDP takes what [`XdpLoader::load_and_attach`] does. Acts in the network
    /// namespace of the calling thread.
    ///
    /// # Errors
    /// [`XdpError::Config`] for a value that cannot be used, [`XdpError::PortTaken`],
    /// [`XdpError::TooManySockets`] and [`XdpError::Socket`]; with falling back switched
    /// off also whatever keeps XDP from working. Nothing is left behind then.
    pub fn open(config: &IngestConfig, xdp_config: &XdpConfig) -> Result<Ingest, XdpError> {
        xdp_config.validate()?;
        let steering = Arc::new(Steering::new(xdp_config, &config.cores)?);
        let (port, buffer) = (xdp_config.port, config.receive_buffer);
        let sockets = sockets::bind(config.address, port, &config.cores, buffer)?;
        let turns = Arc::new(Turns::new(config.cores.len(), &steering.owners())?);
        let artifact = Artifact::find(&xdp_config.bpf_object_path);
        let choice = choice::choose(&steering, artifact.as_ref());
        let group = Group::open(sockets, choice, &steering, None)?;
        let xdp = match xdp_config.enabled {
            true => artifact.map_err(XdpError::from).and_then(|artifact| {
                let shared = group.table().map(|table| (abi::LAMINAR_MAP_STEERING, table));
                XdpLoader::load(xdp_config, steering.clone(), artifact, shared.as_slice())
            }),
            false => Err(XdpError::Disabled),
        };
        let terms = succession::terms(config.address, port, &steering);
        let ingest = Self::with(xdp, group, turns, steering, terms, xdp_config)?;
        // Where XDP failed, its warning has it; and whoever has no rights knows.
        let is_told = match &ingest.mode {
            IngestMode::Sockets(error) => !matches!(error, XdpError::Disabled),
            _ => false,
        };
        if let (false, Some(reason)) = (is_told, ingest.classic_reason())
            && rights::may_load()
        {
            tracing::warn!(reason, "classic BPF chooses the sockets, which counts no reasons");
        }
        Ok(ingest)
    }

    fn with(
        xdp: Result<XdpLoader, XdpError>,
        group: Group,
        turns: Arc<Turns>,
        steering: Arc<Steering>,
        terms: String,
        xdp_config: &XdpConfig,
    ) -> Result<Ingest, XdpError> {
        let (xdp, mode) = match xdp {
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
                let classic_bpf_because = group.classic_reason();
                tracing::warn!(%error, classic_bpf_because, "going on without XDP");
                (None, IngestMode::Sockets(error))
            }
            Err(error) => return Err(error),
        };
        let stage = Arc::new(Mutex::new(Stage::Serving));
        Ok(Ingest { xdp, mode, group, turns, steering, stage, handed_over: false, terms })
    }

    /// The receiver of one CPU: the first, or the next one after that was dropped.
    ///
    /// # Errors
    /// [`XdpError::Config`] if the CPU is not one of those at opening, or its receiver is
    /// in use; [`XdpError::HandOver`] once another process has taken over.
    pub fn receiver(&self, core: u32) -> Result<Receiver, XdpError> {
        let index = self.steering.check_move(0, core)?;
        if self.handed_over {
            return Err(peer::failed("this process has handed over".into()));
        }
        let socket = self.group.sockets()[index].clone();
        Receiver::new(core, index, socket, self.turns.clone()).ok_or_else(|| {
            XdpError::config("core", format!("the receiver of CPU {core} is in use"))
        })
    }

    /// What stands behind the promise.
    pub fn mode(&self) -> &IngestMode {
        &self.mode
    }

    /// Which XDP object was chosen, and why not the others; `None` without XDP.
    pub fn selection(&self) -> Option<&Selection> {
        self.xdp.as_ref().map(XdpLoader::selection)
    }

    /// Why classic BPF chooses the sockets; `None` where an object does, which counts by
    /// reason. Behind classic BPF a partition that has moved is still received where it
    /// started, by the kernel and by that CPU's receiver, which hands it on: a classic
    /// program cannot be replaced while packets come (the kernel frees it under them;
    /// seen on 6.18, which crashed). So it waits too while that CPU's thread is dead.
    pub fn classic_reason(&self) -> Option<&str> {
        self.group.classic_reason()
    }

    /// Bytes that each socket holds, as the kernel granted them.
    ///
    /// # Errors
    /// [`XdpError::Socket`] if the kernel does not answer.
    pub fn receive_buffer(&self) -> Result<u32, XdpError> {
        sockets::receive_buffer(&self.group.sockets()[0])
            .map_err(|reason| XdpError::socket("ask for the size of a receive buffer", reason))
    }

    /// Reads the counters of both layers from the kernel.
    ///
    /// # Errors
    /// [`XdpError::Kernel`] and [`XdpError::Socket`] if the kernel does not answer.
    pub fn stats(&self) -> Result<IngestStats, XdpError> {
        let xdp = self.xdp.as_ref().map(XdpLoader::stats).transpose()?;
        let counts = self
            .group
            .counts()
            .map_err(|reason| XdpError::socket("read the counters of the sockets", reason))?;
        let misplaced = match self.group.object() {
            Some(_) => self.turns.handed_on(),
            // Behind classic BPF they are handed on from where they start.
            None => self.turns.astray(),
        };
        let mut stats = IngestStats::new(xdp, counts.by_reason, counts.dropped, misplaced);
        stats.lost_in_hand = self.turns.lost();
        Ok(stats)
    }

    /// XDP's counters for each CPU, with bytes; empty without XDP.
    ///
    /// # Errors
    /// [`XdpError::Kernel`] if the kernel does not answer.
    pub fn counters(&self) -> Result<Vec<XdpCounter>, XdpError> {
        self.xdp.as_ref().map_or(Ok(Vec::new()), XdpLoader::counters)
    }

    /// What may be changed and looked at while XDP runs; `None` without XDP. Limits and
    /// lists of sources are XDP's alone: where there are only sockets, everybody may send.
    pub fn controls(&self) -> Option<&XdpControls> {
        self.xdp.as_ref().map(XdpLoader::controls)
    }

    /// The number of partitions.
    pub fn partitions(&self) -> u32 {
        self.steering.partitions()
    }

    /// The CPUs that own partitions.
    pub fn cores(&self) -> &[u32] {
        self.steering.cores()
    }

    /// The CPU that owns a partition now; `None` for a partition that does not exist.
    pub fn owner(&self, partition: u32) -> Option<u32> {
        let exists = partition < self.partitions();
        exists.then(|| self.cores()[self.turns.now_and_next(partition).0])
    }
}
