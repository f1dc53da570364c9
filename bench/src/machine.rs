//! What was measured on.

use std::fs;

use serde::{Deserialize, Serialize};
use xshell::{Shell, cmd};

/// The machine, as far as it matters for a figure.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// The processor's name.
    pub processor: String,
    /// How many CPUs are online.
    pub cpus: usize,
    /// Whether the processor says that it is a virtual one.
    pub virtual_machine: bool,
    /// What `uname` says: name, release and architecture.
    pub kernel: String,
    /// What packets came through.
    pub wire: String,
    /// The day, by UTC.
    pub date: String,
}

impl Machine {
    /// This one. `ports` are the network cards, if it is not a veth pair.
    pub fn this(ports: Option<&[String; 2]>) -> anyhow::Result<Machine> {
        let shell = Shell::new()?;
        let info = fs::read_to_string("/proc/cpuinfo")?;
        let line = |key: &str| {
            let line = info.lines().find(|line| line.starts_with(key))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let wire = match ports {
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
            wire,
            date: cmd!(shell, "date --utc +%F").quiet().read()?,
        })
    }
}

impl std::fmt::Display for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Machine { processor, cpus, kernel, wire, date, .. } = self;
        let kind = if self.virtual_machine { "a virtual machine" } else { "a machine" };
        write!(f, "{date}, {kind} with {cpus} CPUs ({processor}), {kernel}, {wire}")
    }
}

fn driver(interface: &str) -> Option<String> {
    let link = fs::read_link(format!("/sys/class/net/{interface}/device/driver")).ok()?;
    Some(link.file_name()?.to_string_lossy().into_owned())
}
