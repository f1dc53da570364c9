//! The program on its interfaces as callers see it: load, read, steer, detach.

use std::sync::Arc;

use laminar_xdp_prebuilt::schema::stats_key;
use laminar_xdp_prebuilt::{Layer, abi};

use crate::artifact::Artifact;
use crate::config::{ConfigError, XdpAttachMode, XdpConfig};
use crate::object::{KernelFeatures, SharedMaps, capabilities};
use crate::partitions::{self, Partitions, TableEntry};
use crate::report::{Selection, XdpCounter, XdpError, XdpReason, XdpStats};
use crate::sys::cpus;
use crate::xdp::candidates::Candidates;
use crate::xdp::controls::XdpControls;
use crate::xdp::interface::Interface;
use crate::xdp::occupant;
use crate::xdp::running::RunningProgram;

/// An XDP program at work. Dropping the loader detaches the program. From Linux 5.9 on
/// the kernel detaches it also when the process is killed.
///
/// A loader can be moved to another thread and shared between threads. On kernels before
/// 5.9 it must be dropped in the network namespace in which it was made.
///
/// ```no_run
/// use laminar_xdp::{XdpConfig, XdpLoader};
///
/// let config = XdpConfig::builder().enabled(true).interface("eth0").partitions(64).build()?;
/// let loader = XdpLoader::load_and_attach(&config, &[0, 1, 2, 3])?;
/// println!("{}", loader.selection()); // which object, and why not the others
/// println!("{}", loader.stats()?);
/// loader.detach()?;
/// # Ok::<(), laminar_xdp::XdpError>(())
/// ```
#[derive(Debug)]
#[must_use = "dropping the loader detaches the program"]
pub struct XdpLoader {
    // Dropped first: the control maps must outlive the program on the interface.
    interface: XdpInterface,
    controls: XdpControls,
    partitions: Arc<Partitions>,
}

/// The program on one of a loader's interfaces ([`XdpLoader::interfaces`]).
#[derive(Debug)]
pub struct XdpInterface {
    program: RunningProgram,
    selection: Selection,
}

impl XdpLoader {
    /// Selects the best object for this kernel, loads it, and attaches it to
    /// [`XdpConfig::interface`].
    ///
    /// `cpus` are the ids of online CPUs. Each gets a queue; partition `p` starts on
    /// `cpus[p % cpus.len()]`. Attaching is the last step, so everything is in place for
    /// the first packet. If only generic mode is left and could lose redirected packets,
    /// the program filters without steering: [`XdpLoader::steers`] is then false,
    /// [`XdpLoader::selection`] holds the reason, and one warning is logged.
    ///
    /// Blocks for some tens of milliseconds, most of it in the kernel's verifier and in
    /// attaching. Needs root, or CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN. Acts in the
    /// network namespace of the calling thread.
    ///
    /// # Errors
    /// Any [`XdpError`]. The interface is then as it was before. A program of another
    /// owner is never displaced. A program that a killed process of ours left behind
    /// (before Linux 5.9) is removed, with one warning.
    pub fn load_and_attach(config: &XdpConfig, cpus: &[u32]) -> Result<XdpLoader, XdpError> {
        if !config.enabled {
            return Err(XdpError::Disabled);
        }
        config.validate()?;
        let partitions = Arc::new(Partitions::new(config.partitions, cpus)?);
        let artifact = Artifact::find(&config.bpf_object_path)?;
        Self::load(config, partitions, artifact, &mut KernelFeatures::default(), &[])
    }

    /// Loads with partitions, probe results and maps that others share.
    pub(crate) fn load(
        config: &XdpConfig,
        partitions: Arc<Partitions>,
        artifact: Artifact,
        features: &mut KernelFeatures,
        shared: SharedMaps,
    ) -> Result<XdpLoader, XdpError> {
        check_forced_target(config, &artifact)?;
        capabilities::check()?;
        KernelFeatures::check_bpf()?;
        let interface = &Interface::find(&config.interface)?;
        occupant::make_free(interface)?;
        let candidates =
            Candidates { config, partitions: &partitions, interface, shared, running: None };
        let (program, selection) = candidates.attach_best(artifact, features)?;
        let (name, mode, steers) = (&interface.name, program.mode(), program.steers);
        tracing::info!(interface = %name, %mode, steers, "XDP program attached");
        if !steers {
            tracing::warn!(interface = %name, "XDP filters, but does not steer");
        }
        Ok(Self::new(program, selection, config, partitions))
    }

    /// Replaces a program that another process attached by the best object of this
    /// process, and keeps its maps. If no object can replace the program, the program
    /// itself stays. The other process keeps its hold until
    /// [`XdpLoader::take_ownership`].
    pub(crate) fn take_over(
        config: &XdpConfig,
        partitions: Arc<Partitions>,
        artifact: Artifact,
        features: &mut KernelFeatures,
        mut running: RunningProgram,
    ) -> Result<XdpLoader, XdpError> {
        check_forced_target(config, &artifact)?;
        let loaded = &running.loaded;
        let shared = [
            (abi::LAMINAR_MAP_STATS, &loaded.stats),
            (abi::LAMINAR_MAP_STEERING, &loaded.steering),
            (abi::LAMINAR_MAP_CPU, &loaded.cpu_map),
        ];
        // A program that only filters has no queues to share.
        let shared = if running.steers { &shared[..] } else { &shared[..2] };
        let interface = running.attachment.interface();
        let candidates = Candidates {
            config,
            partitions: &partitions,
            interface,
            shared,
            running: Some(&running),
        };
        match candidates.attach_best(artifact, features) {
            Ok((program, selection)) => {
                running.attachment.release();
                Ok(Self::new(program, selection, config, partitions))
            }
            // The old program stays only if this process wants no features of its own:
            // with the old program it could not control them.
            Err(XdpError::NoUsableObject { selection }) if crate::object::features(config) == 0 => {
                tracing::warn!(%selection, "the program of the former process stays");
                Ok(Self::new(running, *selection, config, partitions))
            }
            Err(error) => Err(error),
        }
    }

    fn new(
        mut program: RunningProgram,
        selection: Selection,
        config: &XdpConfig,
        partitions: Arc<Partitions>,
    ) -> XdpLoader {
        let controls = XdpControls::new(program.loaded.controls.take(), config);
        XdpLoader { interface: XdpInterface { program, selection }, controls, partitions }
    }

    /// Makes a program that was taken over this process's own.
    pub(crate) fn take_ownership(&mut self) {
        self.interface.program.attachment.take_ownership();
    }

    /// Drops the hold without detaching: another process has taken over.
    pub(crate) fn release(&mut self) {
        self.interface.program.attachment.release();
    }

    pub(crate) fn program(&self) -> &RunningProgram {
        &self.interface.program
    }

    /// Reads the counters from the kernel, summed over all CPUs.
    ///
    /// # Errors
    /// [`XdpError::Kernel`] if the kernel does not answer.
    pub fn stats(&self) -> Result<XdpStats, XdpError> {
        XdpStats::read(|number| Ok(self.counts(number)?.iter().map(|[packets, _]| packets).sum()))
    }

    /// Reads the counters for each CPU, with bytes. Counters that are 0 are left out.
    ///
    /// # Errors
    /// [`XdpError::Kernel`] if the kernel does not answer.
    pub fn counters(&self) -> Result<Vec<XdpCounter>, XdpError> {
        let mut counters = Vec::new();
        let cpus = cpus::possible().map_err(|error| XdpError::kernel("list the CPUs", error))?;
        for &reason in XdpReason::ALL {
            let counts = cpus.iter().zip(self.counts(reason.number())?);
            let counted = counts.filter(|(_, [packets, _])| *packets > 0);
            counters.extend(counted.map(|(cpu, [packets, bytes])| XdpCounter {
                reason,
                cpu: cpu.get(),
                packets,
                bytes,
            }));
        }
        Ok(counters)
    }

    /// Packets and bytes for each CPU.
    fn counts(&self, number: u32) -> Result<Vec<[u64; 2]>, XdpError> {
        let counts = self.interface.program.loaded.stats.lookup_per_cpu(stats_key(0, number));
        counts.map_err(|error| XdpError::kernel("read the statistics", error))
    }

    /// What can be changed and read while the program runs.
    pub fn controls(&self) -> &XdpControls {
        &self.controls
    }

    /// Moves a partition to another of the CPUs that were named at loading.
    ///
    /// The next packet goes to the new CPU. Packets in the old CPU's queue are still
    /// processed there, so for a moment two CPUs may work on one partition.
    /// [`crate::Ingest::move_partition`] keeps the order instead.
    ///
    /// # Errors
    /// [`XdpError::FilterOnly`] if the program does not steer,
    /// [`XdpError::UnknownPartition`], [`XdpError::UnknownCpu`], and [`XdpError::Kernel`]
    /// if the kernel refuses.
    pub fn update_cpu_steering(&self, partition: u32, cpu: u32) -> Result<(), XdpError> {
        let program = &self.interface.program;
        if !program.steers {
            return Err(XdpError::FilterOnly);
        }
        let partition = self.partitions.partition(partition)?;
        let cpu = self.partitions.cpu(self.partitions.index_of(cpu)?);
        let entry = TableEntry { queue: Some(cpu), socket: cpu };
        partitions::write_entry(&program.loaded.steering, partition, entry)
    }

    /// Detaches the program now and reports failure. Dropping the loader detaches too,
    /// and only logs a failure.
    ///
    /// # Errors
    /// [`XdpError::Kernel`] if the kernel refuses.
    pub fn detach(mut self) -> Result<(), XdpError> {
        let attachment = &mut self.interface.program.attachment;
        attachment.detach().map_err(|error| {
            let interface = &attachment.interface().name;
            XdpError::kernel(format!("detach the XDP program from {interface}"), error)
        })
    }

    /// Every interface that this loader attached to: today one, that of
    /// [`XdpConfig::interface`].
    pub fn interfaces(&self) -> &[XdpInterface] {
        std::slice::from_ref(&self.interface)
    }

    /// Which object was selected for [`XdpConfig::interface`], and why not the others.
    pub fn selection(&self) -> &Selection {
        self.interface.selection()
    }

    /// The mode on [`XdpConfig::interface`]: native or generic.
    pub fn mode(&self) -> XdpAttachMode {
        self.interface.mode()
    }

    /// Whether valid packets are redirected to CPU queues on [`XdpConfig::interface`], or
    /// only junk is dropped there.
    pub fn steers(&self) -> bool {
        self.interface.steers()
    }

    /// Whether the kernel detaches the program from [`XdpConfig::interface`] when the
    /// process ends (a bpf_link, Linux 5.9), or leaves it there.
    pub fn detaches_on_exit(&self) -> bool {
        self.interface.detaches_on_exit()
    }

    /// The kernel's id of the program on [`XdpConfig::interface`], as `bpftool prog show
    /// id` takes it.
    ///
    /// # Errors
    /// [`XdpError::Kernel`] if the kernel does not answer.
    pub fn program_id(&self) -> Result<u32, XdpError> {
        self.interface.program_id()
    }

    /// The number of partitions.
    pub fn partitions(&self) -> u32 {
        self.partitions.count()
    }

    /// The ids of the CPUs that own partitions.
    pub fn cpus(&self) -> &[u32] {
        self.partitions.cpus()
    }
}

impl XdpInterface {
    /// The interface's name, as configured.
    pub fn name(&self) -> &str {
        &self.program.attachment.interface().name
    }

    /// The mode in which the program runs: native or generic.
    pub fn mode(&self) -> XdpAttachMode {
        self.program.mode()
    }

    /// Whether valid packets are redirected to CPU queues, or only junk is dropped.
    pub fn steers(&self) -> bool {
        self.program.steers
    }

    /// Which object was selected, and why not the others.
    pub fn selection(&self) -> &Selection {
        &self.selection
    }

    /// Whether the kernel detaches the program when the process ends (a bpf_link, Linux
    /// 5.9), or leaves it on the interface.
    pub fn detaches_on_exit(&self) -> bool {
        self.program.attachment.detaches_on_exit()
    }

    /// The kernel's id of the program, as `bpftool prog show id` takes it.
    ///
    /// # Errors
    /// [`XdpError::Kernel`] if the kernel does not answer.
    pub fn program_id(&self) -> Result<u32, XdpError> {
        self.program.id()
    }
}

/// Fails if a target is forced that the artifact does not have.
fn check_forced_target(config: &XdpConfig, artifact: &Artifact) -> Result<(), XdpError> {
    let Some(forced) = &config.force_target else { return Ok(()) };
    let entries = artifact.objects.iter().filter_map(|object| object.entry.as_ref());
    let xdp = entries.filter(|entry| entry.layer == Layer::Xdp);
    let mut targets: Vec<_> = xdp.map(|entry| entry.target.as_str()).collect();
    targets.dedup();
    if targets.contains(&forced.as_str()) {
        return Ok(());
    }
    let problem = format!("{} has no target {forced:?}; it has {targets:?}", artifact.origin);
    Err(ConfigError::new("force_target", problem).into())
}
