//! The machine on which a run was measured.

use std::fs;

use serde::{Deserialize, Serialize};
use xshell::{Shell, cmd};

/// The properties of a machine that influence the figures.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// The processor's name.
    pub processor: String,
    /// The number of CPUs that are online.
    pub cpus: usize,
    /// Whether the processor reports a hypervisor.
    pub virtual_machine: bool,
    /// The output of `uname -srm`: name, release and architecture.
    pub kernel: String,
    /// The interfaces that carried the packets.
    pub network: String,
    /// The date in UTC.
    pub date: String,
}

impl Machine {
    /// Describes this machine. `ports` are the network cards that carried the packets; `None` means
    /// a veth pair.
    pub fn detect(ports: Option<&[String; 2]>) -> anyhow::Result<Machine> {
        let shell = Shell::new()?;
        let info = fs::read_to_string("/proc/cpuinfo")?;
        let line = |key: &str| {
            let line = info.lines().find(|line| line.starts_with(key))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let network = match ports {
            None => "a veth pair between two network namespaces".into(),
            Some([to, from]) => {
                let driver = |port: &String| driver(port).unwrap_or_else(|| "no driver".into());
                format!("from {from} ({}) to {to} ({})", driver(from), driver(to))
            }
        };
        Ok(Machine {
            processor: line("model name").unwrap_or_else(|| "unknown".into()),
            cpus: testbed::online_cpus().len(),
            virtual_machine: line("flags").is_some_and(|flags| flags.contains(" hypervisor")),
            kernel: cmd!(shell, "uname -srm").quiet().read()?,
            network,
            date: cmd!(shell, "date --utc +%F").quiet().read()?,
        })
    }
}

impl std::fmt::Display for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Machine { processor, cpus, kernel, network, date, .. } = self;
        let kind = if self.virtual_machine { "a virtual machine" } else { "a machine" };
        write!(f, "{date}, {kind} with {cpus} CPUs ({processor}), {kernel}, {network}")
    }
}

fn driver(interface: &str) -> Option<String> {
    let link = fs::read_link(format!("/sys/class/net/{interface}/device/driver")).ok()?;
    Some(link.file_name()?.to_string_lossy().into_owned())
}
