//! The options, CPUs and network that all parts of a run share.

use std::fmt::Display;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use testbed::TestNet;

/// The options and resources of one run.
pub struct Session {
    /// Whether this is a quick run (`--quick`).
    pub quick: bool,
    /// The CPU that receives packets.
    pub rx_cpu: u32,
    /// A second CPU. In some parts it sends packets, in other parts it owns the partitions.
    pub other_cpu: u32,
    /// All CPUs that are online.
    pub all_cpus: Vec<u32>,
    /// The folder with the compiled programs of `bench/programs`.
    pub programs: PathBuf,
    /// The network cards of `--ports`; `None` without that option.
    pub nics: Option<Arc<TestNet>>,
}

impl Session {
    /// Returns `quick` in a quick run and `full` in a full run.
    pub fn choose<T>(&self, quick: T, full: T) -> T {
        if self.quick { quick } else { full }
    }

    /// Prints a progress message.
    pub fn progress(&self, message: impl Display) {
        eprintln!("{message}");
    }

    /// Returns the length of a measurement window: `milliseconds` with a veth pair, 4 s with
    /// network cards. Drivers of network cards update the packet counters only once a second, so a
    /// shorter window would be imprecise.
    pub fn window(&self, milliseconds: u64) -> Duration {
        Duration::from_millis(if self.has_nics() { 4000 } else { milliseconds })
    }

    /// Returns the network to measure on: a new veth pair, or the network cards. The name of a veth
    /// interface is unique on the machine. The polling threads are named after the interface, so
    /// the names of the threads are unique as well.
    pub fn network(&self) -> Result<Arc<TestNet>> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);

        if let Some(net) = &self.nics {
            return Ok(net.clone());
        }
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        TestNet::with_interface(&format!("lam{}n{number}", std::process::id())).map(Arc::new)
    }

    /// Whether the network consists of network cards.
    pub fn has_nics(&self) -> bool {
        self.nics.is_some()
    }

    /// Returns the order in which a round measures the contenders, as indexes. The order differs
    /// from round to round, because a contender can influence the contender that runs after it.
    pub fn order(&self, round: usize, contenders: usize) -> impl Iterator<Item = usize> {
        (0..contenders).map(move |i| (i + round) % contenders)
    }

    /// Whether a thread that must not take CPU time from other threads gets the idle scheduling
    /// class. In a quick run, such a thread keeps the ordinary class. In the idle class, the thread
    /// could get no CPU time at all on a busy machine, and the quick run would fail.
    pub fn uses_idle_class(&self) -> bool {
        !self.quick
    }

    /// Returns the path of the compiled program `name`.
    pub fn program(&self, name: &str) -> Result<String> {
        let path = self.programs.join(name).with_extension("o");
        ensure!(path.exists(), "{} is missing; `make bench` compiles it", path.display());
        Ok(path.to_str().context("the path is not UTF-8")?.into())
    }
}
