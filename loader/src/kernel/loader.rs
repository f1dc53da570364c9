//! pick -> load -> attach -> steer -> count.

use crate::artifact::Artifact;
use crate::config::{XdpAttachMode, XdpConfig};
use crate::error::XdpError;
use crate::kernel::attach::{Attachment, Interface};
use crate::kernel::attempt::{Attempt, Found};
use crate::kernel::object::Loaded;
use crate::kernel::steering::Steering;
use crate::kernel::{libbpf, probe, rights};
use crate::select::Selection;
use crate::stats::XdpStats;

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
    steering: Steering,
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
    /// somebody else on it is never displaced.
    pub fn load_and_attach(config: &XdpConfig, cores: &[u32]) -> Result<XdpLoader, XdpError> {
        if !config.enabled {
            return Err(XdpError::Disabled);
        }
        config.validate()?;
        let steering = Steering::new(config, cores)?;
        let artifact = Artifact::find(&config.bpf_object_path)?;
        check_forced_target(config, &artifact)?;
        rights::check()?;
        probe::bpf_available()?;
        let interface = Interface::find(&config.interface)?;
        interface.check_free()?;
        let attempt = Attempt { config, steering: &steering, interface: &interface };
        let (found, selection) = attempt.try_all(artifact)?;
        let Found { attachment, loaded, mode, steers } = found;
        tracing::info!(interface = %interface.name, %mode, steers, "XDP program attached");
        if !steers {
            tracing::warn!(interface = %interface.name, "XDP filters, but does not steer");
        }
        Ok(XdpLoader { attachment, loaded, steering, selection, mode, steers })
    }

    /// Reads the counters from the kernel.
    ///
    /// # Errors
    /// [`XdpError::Kernel`] if the kernel does not answer.
    pub fn stats(&self) -> Result<XdpStats, XdpError> {
        XdpStats::read(|reason| {
            let per_cpu = self.loaded.stats.lookup_per_cpu(reason);
            per_cpu
                .map(|counters| counters.iter().sum())
                .map_err(|reason| XdpError::Kernel { action: "read the statistics".into(), reason })
        })
    }

    /// Moves a partition to another of the CPUs that were named at loading. The
    /// next packet follows; packets already in the old CPU's queue are still
    /// processed there, so for a moment two CPUs may work on one partition.
    ///
    /// # Errors
    /// [`XdpError::Config`] for a partition or CPU that does not exist or has no
    /// queue, [`XdpError::FilterOnly`] where [`XdpLoader::steers`] is false.
    pub fn update_cpu_steering(&self, partition: u32, cpu: u32) -> Result<(), XdpError> {
        if !self.steers {
            return Err(XdpError::FilterOnly);
        }
        self.steering.reassign(&self.loaded.steering, partition, cpu)
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
    let mut targets: Vec<_> = targets.map(|entry| entry.target.as_str()).collect();
    targets.dedup();
    if targets.contains(&forced.as_str()) {
        return Ok(());
    }
    let problem = format!("{} has no target {forced:?}; it has {targets:?}", artifact.origin);
    Err(XdpError::config("force_target", problem))
}
