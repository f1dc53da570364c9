//! What all parts of a run share: its options, its CPUs and its network.

use std::fmt::Display;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use testbed::TestNet;

/// The options and resources of one run.
pub struct Session {
    /// Whether this is the quick form.
    pub quick: bool,
    /// The CPU that receives packets.
    pub rx_cpu: u32,
    /// Another CPU. It sends packets, or owns partitions.
    pub other_cpu: u32,
    /// All CPUs that are online.
    pub all_cpus: Vec<u32>,
    /// The folder with the compiled programs of `bench/programs`.
    pub programs: PathBuf,
    /// The network cards of `--ports`, if given.
    pub nics: Option<Arc<TestNet>>,
}

impl Session {
    /// Selects the value for the quick form or for the full form.
    pub fn choose<T>(&self, quick: T, full: T) -> T {
        if self.quick { quick } else { full }
    }

    /// Prints a progress message.
    pub fn progress(&self, message: impl Display) {
        eprintln!("{message}");
    }

    /// The length of a measurement window. It is longer with network cards, whose drivers
    /// update their packet counters only once a second.
    pub fn window(&self, milliseconds: u64) -> Duration {
        Duration::from_millis(if self.has_nics() { 4000 } else { milliseconds })
    }

    /// The network to measure on: a new veth pair, or the network cards. A veth interface has
    /// a name that no other interface of the machine has, so that the name of its polling
    /// threads is unique too.
    pub fn network(&self) -> Result<Arc<TestNet>> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);

        if let Some(net) = &self.nics {
            return Ok(net.clone());
        }
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        TestNet::with_interface(&format!("lam{}n{number}", std::process::id())).map(Arc::new)
    }

    /// Whether packets go over network cards. A card sends redirected frames only while it
    /// has an XDP program itself.
    pub fn has_nics(&self) -> bool {
        self.nics.is_some()
    }

    /// The order of the contenders in a round. It changes with the round, because a contender
    /// can influence the one that runs after it.
    pub fn order(&self, round: usize, contenders: usize) -> impl Iterator<Item = usize> {
        (0..contenders).map(move |i| (i + round) % contenders)
    }

    /// Whether a thread that must not take CPU time from others gets the idle scheduling class.
    /// In the quick form it keeps the ordinary class: on a busy machine a thread of the idle
    /// class gets no CPU time at all, and nothing that depends on this thread would run.
    pub fn uses_idle_class(&self) -> bool {
        !self.quick
    }

    /// The path of a compiled program.
    pub fn program(&self, name: &str) -> Result<String> {
        let path = self.programs.join(name).with_extension("o");
        ensure!(path.exists(), "{} is missing; `make bench` compiles it", path.display());
        Ok(path.to_str().context("the path is not UTF-8")?.into())
    }
}
