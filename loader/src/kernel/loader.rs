//! pick -> load -> attach -> steer -> count.

use std::ffi::CStr;
use std::io;
use std::sync::Arc;

use laminar_xdp_prebuilt::{Layer, abi};

use crate::artifact::Artifact;
use crate::config::{XdpAttachMode, XdpConfig};
use crate::error::XdpError;
use crate::kernel::attach::Attachment;
use crate::kernel::attempt::{Attempt, Found};
use crate::kernel::controls::XdpControls;
use crate::kernel::interface::Interface;
use crate::kernel::object::{Loaded, Map};
use crate::kernel::steering::{self, Owner, Steering};
use crate::kernel::{controls, libbpf, probe, rights};
use crate::select::Selection;
use crate::stats::{XdpCounter, XdpReason, XdpStats};

/// The program at work on one interface. Dropping it detaches; so does the end
/// of the process, however it comes, from Linux 5.9 on.
///
/// It may be moved to another thread and shared. On kernels before 5.9 it must
/// be dropped in the network namespace in which it was made.
#[derive(Debug)]
pub struct XdpLoader {
    // Dropped first: the maps must outlive the program on the interface.
    attachment: Attachment,
    loaded: Loaded,
    steering: Arc<Steering>,
    selection: Selection,
    mode: XdpAttachMode,
    steers: bool,
}

impl XdpLoader {
    /// Picks the best object for this kernel, loads it, gives every core in
    /// `cores` (ids of CPUs that are online) a queue and its partitions, and
    /// attaches last: from the first packet on, everything is in place. Where
    /// only generic mode is left and redirected packets could be lost in it, it
    /// filters without steering: one warning says so, [`XdpLoader::steers`] is
    /// false and [`XdpLoader::selection`] has the reason.
    ///
    /// Partition `p` starts on `cores[p % cores.len()]`. Takes root, or
    /// CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN. Acts in the network namespace of
    /// the calling thread.
    ///
    /// # Errors
    /// Any [`XdpError`]. The interface is then as it was before; a program of
    /// somebody else on it is never displaced. One that a killed process of ours left
    /// (before Linux 5.9) is taken off, and one warning says so.
    pub fn load_and_attach(config: &XdpConfig, cores: &[u32]) -> Result<XdpLoader, XdpError> {
        if !config.enabled {
            return Err(XdpError::Disabled);
        }
        config.validate()?;
        let steering = Arc::new(Steering::new(config, cores)?);
        Self::load(config, steering, Artifact::find(&config.bpf_object_path)?, &[])
    }

    /// The same with what others share: owners, and maps that exist already.
    pub(super) fn load(
        config: &XdpConfig,
        steering: Arc<Steering>,
        artifact: Artifact,
        existing: &[(&'static CStr, &Map)],
    ) -> Result<XdpLoader, XdpError> {
        check_forced_target(config, &artifact)?;
        rights::check()?;
        probe::bpf_available()?;
        let interface = Interface::find(&config.interface)?;
        interface.make_free()?;
        let (interface, steering_table) = (&interface, &*steering);
        let attempt =
            Attempt { config, steering: steering_table, interface, existing, running: None };
        let (found, selection) = attempt.try_all(artifact)?;
        let Found { attachment, loaded, mode, steers } = found;
        tracing::info!(interface = %interface.name, %mode, steers, "XDP program attached");
        if !steers {
            tracing::warn!(interface = %interface.name, "XDP filters, but does not steer");
        }
        Ok(XdpLoader { attachment, loaded, steering, selection, mode, steers })
    }

    /// Puts the best object in the place of one that another process attached, and goes
    /// on with its maps; where none can be put there, with that one itself. The other
    /// process keeps its hold until [`XdpLoader::own`].
    pub(super) fn take_over(
        config: &XdpConfig,
        steering: Arc<Steering>,
        artifact: Artifact,
        (mut attachment, loaded, steers): (Attachment, Loaded, bool),
    ) -> Result<XdpLoader, XdpError> {
        check_forced_target(config, &artifact)?;
        let existing = [
            (abi::LAMINAR_MAP_STATS, &loaded.stats),
            (abi::LAMINAR_MAP_STEERING, &loaded.steering),
            (abi::LAMINAR_MAP_CPU, &loaded.cpu_map),
        ];
        // Without steering there are no queues to go on with.
        let existing = if steers { &existing[..] } else { &existing[..2] };
        let (interface, running) = (attachment.on(), Some((&attachment, steers)));
        let attempt = Attempt { config, steering: &steering, interface, existing, running };
        match attempt.try_all(artifact) {
            Ok((Found { attachment: replacing, loaded, mode, steers }, selection)) => {
                attachment.release();
                let attachment = replacing;
                Ok(XdpLoader { attachment, loaded, steering, selection, mode, steers })
            }
            // Limits and lists that are wanted are in the program that runs, or nowhere.
            Err(XdpError::NoUsableObject { selection }) if controls::features(config) == 0 => {
                tracing::warn!(%selection, "the program of the process before stays");
                let (selection, mode) = (*selection, attachment.mode());
                Ok(XdpLoader { attachment, loaded, steering, selection, mode, steers })
            }
            Err(error) => Err(error),
        }
    }

    /// What was taken over is this process's alone.
    pub(super) fn own(&mut self) {
        self.attachment.own();
    }

    /// Puts this program back in its place, whatever program of ours is there.
    pub(super) fn reclaim(&self) -> io::Result<()> {
        self.attachment.reclaim(&self.loaded.program)
    }

    /// Lets go without detaching: another process has taken over.
    pub(super) fn release(&mut self) {
        self.attachment.release();
    }

    /// What another process needs to take over.
    pub(super) fn estate(&self) -> (&Attachment, &Loaded, bool) {
        (&self.attachment, &self.loaded, self.steers)
    }

    /// Reads the counters from the kernel.
    ///
    /// # Errors
    /// [`XdpError::Kernel`] if the kernel does not answer.
    pub fn stats(&self) -> Result<XdpStats, XdpError> {
        XdpStats::read(|reason| Ok(self.counts(reason)?.iter().map(|[packets, _]| packets).sum()))
    }

    /// Reads the same for each CPU, with bytes. Where nothing was counted, nothing is
    /// given.
    ///
    /// # Errors
    /// [`XdpError::Kernel`] if the kernel does not answer.
    pub fn counters(&self) -> Result<Vec<XdpCounter>, XdpError> {
        let mut counters = Vec::new();
        let cpus = steering::possible_cpus()
            .map_err(|reason| XdpError::Kernel { action: "list the CPUs".into(), reason })?;
        for &reason in XdpReason::ALL {
            let counts = cpus.iter().copied().zip(self.counts(reason)?);
            let counted = counts.filter(|(_, [packets, _])| *packets > 0);
            counters.extend(counted.map(|(cpu, [packets, bytes])| XdpCounter {
                reason,
                cpu,
                packets,
                bytes,
            }));
        }
        Ok(counters)
    }

    /// Packets and bytes for each CPU.
    fn counts(&self, reason: XdpReason) -> Result<Vec<[u64; 2]>, XdpError> {
        let counts = self.loaded.stats.lookup_per_cpu(reason.number());
        counts.map_err(|reason| XdpError::Kernel { action: "read the statistics".into(), reason })
    }

    /// What may be changed and looked at while the program runs.
    pub fn controls(&self) -> &XdpControls {
        &self.loaded.controls
    }

    /// Moves a partition to another of the CPUs that were named at loading. The
    /// next packet follows; packets already in the old CPU's queue are still
    /// processed there, so for a moment two CPUs may work on one partition.
    /// [`crate::Ingest::move_partition`] keeps their order.
    ///
    /// # Errors
    /// [`XdpError::Config`] for a partition or CPU that does not exist or has no
    /// queue, [`XdpError::FilterOnly`] where [`XdpLoader::steers`] is false.
    pub fn update_cpu_steering(&self, partition: u32, cpu: u32) -> Result<(), XdpError> {
        if !self.steers {
            return Err(XdpError::FilterOnly);
        }
        let owner = self.steering.check_move(partition, cpu)?;
        let entry = Owner { queue: Some(cpu), socket: cpu };
        steering::write(&self.loaded.steering, partition, entry)?;
        self.steering.set_owner(partition, owner);
        Ok(())
    }

    pub(super) fn interface(&self) -> &Interface {
        self.attachment.on()
    }

    pub(super) fn loaded(&self) -> &Loaded {
        &self.loaded
    }

    /// Takes the program off the interface, now and with an answer; dropping the
    /// loader does the same without one.
    ///
    /// # Errors
    /// [`XdpError::Kernel`] if the kernel refuses.
    pub fn detach(mut self) -> Result<(), XdpError> {
        self.attachment.detach().map_err(|reason| XdpError::Kernel {
            action: format!("detach the XDP program from {}", self.attachment.interface()),
            reason,
        })
    }

    /// Which object was chosen, and why not the others.
    pub fn selection(&self) -> &Selection {
        &self.selection
    }

    /// The mode in which the program runs: native or generic.
    pub fn mode(&self) -> XdpAttachMode {
        self.mode
    }

    /// Whether packets are steered, or only filtered.
    pub fn steers(&self) -> bool {
        self.steers
    }

    /// Whether the kernel detaches the program when the process ends (a bpf_link,
    /// Linux 5.9) or leaves it on the interface.
    pub fn ends_with_process(&self) -> bool {
        self.attachment.ends_with_process()
    }

    /// The number of partitions.
    pub fn partitions(&self) -> u32 {
        self.steering.partitions()
    }

    /// The CPUs that own partitions.
    pub fn cores(&self) -> &[u32] {
        self.steering.cores()
    }

    /// The kernel's id of the loaded program, as `bpftool prog show id` takes it.
    ///
    /// # Errors
    /// [`XdpError::Kernel`] if the kernel does not answer.
    pub fn program_id(&self) -> Result<u32, XdpError> {
        libbpf::program_info(&self.loaded.program).map(|(id, ..)| id).map_err(|reason| {
            XdpError::Kernel { action: "ask for the program's id".into(), reason }
        })
    }
}

fn check_forced_target(config: &XdpConfig, artifact: &Artifact) -> Result<(), XdpError> {
    let Some(forced) = &config.force_target else { return Ok(()) };
    let targets = artifact.objects.iter().filter_map(|object| object.entry.as_ref());
    let targets = targets.filter(|entry| entry.layer == Layer::Xdp);
    let mut targets: Vec<_> = targets.map(|entry| entry.target.as_str()).collect();
    targets.dedup();
    if targets.contains(&forced.as_str()) {
        return Ok(());
    }
    let problem = format!("{} has no target {forced:?}; it has {targets:?}", artifact.origin);
    Err(XdpError::config("force_target", problem))
}
