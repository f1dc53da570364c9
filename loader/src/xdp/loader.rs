//! The public handle of an attached program: loads it, reads its counters, steers, and
//! detaches it.

use std::sync::Arc;

use laminar_xdp_prebuilt::{Layer, abi};

use crate::artifact::Artifact;
use crate::config::{ConfigError, XdpAttachMode, XdpConfig};
use crate::object::{KernelFeatures, SharedMaps, capabilities, read_counters, read_packets};
use crate::partitions::{self, Partitions, TableEntry};
use crate::report::{Selection, XdpCounter, XdpError, XdpStats};
use crate::xdp::candidates::Candidates;
use crate::xdp::controls::XdpControls;
use crate::xdp::interface::Interface;
use crate::xdp::occupant;
use crate::xdp::running::RunningProgram;

/// An attached XDP program. Dropping the loader detaches the program. From Linux 5.9 on, the kernel
/// also detaches the program when the process is killed.
///
/// A loader can be moved to another thread and shared between threads. On kernels before
/// 5.9, drop it in the network namespace in which it was created.
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
    /// `cpus` are the ids of online CPUs. Each CPU gets a queue. The first owner of partition
    /// `p` is `cpus[p % cpus.len()]`. Attaching is the last step, so the queues and the steering
    /// table are ready before the first packet. If steering would lose packets in every mode
    /// that works, the program filters without steering: [`XdpLoader::steers`] then returns
    /// false, [`XdpLoader::selection`] holds the reason, and one warning is logged.
    ///
    /// Blocks for some tens of milliseconds, mostly for the kernel's verifier and for
    /// attaching. Needs root, or CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN. Acts in the
    /// network namespace of the calling thread.
    ///
    /// The loader never replaces a program that another owner attached. Before Linux 5.9 a killed
    /// process leaves its program attached. If this library attached that leftover program, the
    /// loader removes it and logs one warning.
    ///
    /// # Errors
    /// Any [`XdpError`]. After an error this call has attached nothing.
    pub fn load_and_attach(config: &XdpConfig, cpus: &[u32]) -> Result<XdpLoader, XdpError> {
        if !config.enabled {
            return Err(XdpError::Disabled);
        }
        config.validate()?;
        let partitions = Arc::new(Partitions::new(config.partitions, cpus)?);
        let artifact = Artifact::find(&config.bpf_object_path)?;
        Self::load(config, partitions, artifact, &mut KernelFeatures::default(), &[])
    }

    /// Loads and attaches a program. The caller provides the partitions, the results of probing
    /// the kernel, and the maps that the program shares with the socket programs.
    pub(crate) fn load(
        config: &XdpConfig,
        partitions: Arc<Partitions>,
        artifact: Artifact,
        features: &mut KernelFeatures,
        shared: SharedMaps,
    ) -> Result<XdpLoader, XdpError> {
        check_forced_target(config, &artifact)?;
        capabilities::check()?;
        capabilities::check_descriptors()?;
        KernelFeatures::check_bpf()?;
        let interface = &Interface::find(&config.interface)?;
        occupant::make_free(interface)?;
        let candidates =
            Candidates { config, partitions: &partitions, interface, shared, running: None };
        let (program, selection) = candidates.attach_best(artifact, features)?;
        let (name, mode, steers) = (&interface.name, program.mode(), program.steers);
        tracing::info!(interface = %name, %mode, steers, "XDP program attached");
        if !steers {
            tracing::warn!(interface = %name, "XDP filters but does not steer");
        }
        Ok(Self::new(program, selection, config, partitions))
    }

    /// Replaces the program of another process with the best object of this process. The new
    /// program uses the old program's maps. If no object can replace the old program, the old
    /// program stays. If the loader is dropped before [`XdpLoader::take_ownership`], it attaches
    /// the old program again instead of detaching.
    pub(crate) fn take_over(
        config: &XdpConfig,
        partitions: Arc<Partitions>,
        artifact: Artifact,
        features: &mut KernelFeatures,
        mut running: RunningProgram,
    ) -> Result<XdpLoader, XdpError> {
        check_forced_target(config, &artifact)?;
        capabilities::check_descriptors()?;
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
            // The old program stays only if this configuration asks for no features, because
            // this process cannot control the features of the old program.
            Err(XdpError::NoUsableObject { selection }) if crate::object::features(config) == 0 => {
                tracing::warn!(%selection, "keeping the program of the former process");
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

    /// Ends a take-over. From now on, dropping the loader detaches the program.
    pub(crate) fn take_ownership(&mut self) {
        self.interface.program.attachment.take_ownership();
    }

    /// Gives up the program without detaching it, because another process has taken over.
    pub(crate) fn release(&mut self) {
        self.interface.program.attachment.release();
    }

    pub(crate) fn program(&self) -> &RunningProgram {
        &self.interface.program
    }

    /// Reads the counters from the kernel, summed over all CPUs. Never blocks.
    ///
    /// # Errors
    /// [`XdpError::Kernel`] if the kernel does not answer.
    pub fn stats(&self) -> Result<XdpStats, XdpError> {
        let packets = read_packets(&self.interface.program.loaded.stats);
        let packets = packets.map_err(|error| XdpError::kernel("read the statistics", error))?;
        Ok(XdpStats::of(&packets))
    }

    /// Reads the counters of each interface and CPU, in packets and in bytes. Counters that are 0
    /// are left out. Never blocks.
    ///
    /// # Errors
    /// [`XdpError::Kernel`] if the kernel does not answer.
    pub fn counters(&self) -> Result<Vec<XdpCounter>, XdpError> {
        let stats = &self.interface.program.loaded.stats;
        read_counters(stats, Some(self.interface.name()))
            .map_err(|error| XdpError::kernel("read the statistics", error))
    }

    /// The controls of the running program: ports, limits, source lists and drop samples.
    pub fn controls(&self) -> &XdpControls {
        &self.controls
    }

    /// Moves a partition to another of the CPUs that were given at loading.
    ///
    /// The next packet goes to the new CPU. The old CPU still processes the packets in its queue,
    /// so for a moment two CPUs may process packets of one partition.
    /// [`crate::Ingest::move_partition`] avoids this overlap and keeps the order.
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

    /// Detaches the program and returns an error if that fails. Dropping the loader also
    /// detaches, but only logs a failure.
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

    /// Every interface to which this loader attached a program. Today that is only
    /// [`XdpConfig::interface`].
    pub fn interfaces(&self) -> &[XdpInterface] {
        std::slice::from_ref(&self.interface)
    }

    /// Which object was selected for [`XdpConfig::interface`], and why the others were not.
    pub fn selection(&self) -> &Selection {
        self.interface.selection()
    }

    /// The mode on [`XdpConfig::interface`]: native or generic.
    pub fn mode(&self) -> XdpAttachMode {
        self.interface.mode()
    }

    /// Whether the program on [`XdpConfig::interface`] redirects valid packets to CPU queues. If
    /// false, the program only drops junk.
    pub fn steers(&self) -> bool {
        self.interface.steers()
    }

    /// Whether the kernel detaches the program from [`XdpConfig::interface`] when the process
    /// ends. True if a bpf_link holds the program, which needs Linux 5.9. If false, the program
    /// stays attached after the process has ended.
    pub fn detaches_on_exit(&self) -> bool {
        self.interface.detaches_on_exit()
    }

    /// The kernel's id of the program on [`XdpConfig::interface`], for `bpftool prog show id`.
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

    /// The mode of the program: native or generic.
    pub fn mode(&self) -> XdpAttachMode {
        self.program.mode()
    }

    /// Whether the program redirects valid packets to CPU queues. If false, the program only
    /// drops junk.
    pub fn steers(&self) -> bool {
        self.program.steers
    }

    /// Which object was selected, and why the others were not.
    pub fn selection(&self) -> &Selection {
        &self.selection
    }

    /// Whether the kernel detaches the program when the process ends. True if a bpf_link holds
    /// the program, which needs Linux 5.9. If false, the program stays attached after the process
    /// has ended.
    pub fn detaches_on_exit(&self) -> bool {
        self.program.attachment.detaches_on_exit()
    }

    /// The kernel's id of the program, for `bpftool prog show id`.
    ///
    /// # Errors
    /// [`XdpError::Kernel`] if the kernel does not answer.
    pub fn program_id(&self) -> Result<u32, XdpError> {
        self.program.id()
    }
}

/// Fails if the configuration forces a target that no object of the artifact has.
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
