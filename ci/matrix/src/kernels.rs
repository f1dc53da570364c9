//! `kernels.toml`: which kernels there are to boot.

use std::collections::BTreeSet;
use std::fmt;

use anyhow::{Context, Result, bail};
use laminar_xdp_prebuilt::ByteOrder;
use serde::{Deserialize, Serialize};

/// The file as a whole.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kernels {
    pub userland_suite: String,
    pub rust_suite: String,
    #[serde(rename = "kernel")]
    pub list: Vec<Kernel>,
    /// What cannot be booted.
    pub unexecuted: Vec<Unexecuted>,
}

/// Releases that none of the kernels stands for.
#[derive(Deserialize, Clone)]
#[serde(deny_unknown_fields)]
pub struct Unexecuted {
    pub from: String,
    pub before: String,
    pub byte_orders: Vec<ByteOrder>,
    pub reason: String,
}

/// A series of kernels of one architecture.
#[derive(Deserialize, Clone)]
#[serde(deny_unknown_fields)]
pub struct Kernel {
    pub series: String,
    pub architecture: Architecture,
    pub suite: String,
    /// Regular expression for the package's name.
    pub image: String,
    #[serde(default)]
    pub on_request: bool,
}

/// A machine, named as Debian names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Architecture {
    Amd64,
    S390x,
}

impl Kernels {
    pub fn read() -> Result<Kernels> {
        toml::from_str(include_str!("../kernels.toml")).context("kernels.toml")
    }

    /// The kernels by name, or by default all that need not be asked for.
    pub fn choose(self, names: &[String]) -> Result<Kernels> {
        if let Some(unknown) =
            names.iter().find(|name| !self.list.iter().any(|k| k.name() == **name))
        {
            let known: Vec<_> = self.list.iter().map(Kernel::name).collect();
            bail!(
                "there is no kernel {unknown:?} in ci/matrix/kernels.toml; it has {}",
                known.join(", ")
            );
        }
        let chosen = |kernel: &Kernel| match names {
            [] => !kernel.on_request,
            _ => names.contains(&kernel.name()),
        };
        Ok(Kernels { list: self.list.iter().filter(|k| chosen(k)).cloned().collect(), ..self })
    }

    pub fn architectures(&self) -> BTreeSet<Architecture> {
        self.list.iter().map(|kernel| kernel.architecture).collect()
    }
}

impl Kernel {
    /// As in `6.12`, or `6.12-s390x` for other machines than the usual one.
    pub fn name(&self) -> String {
        match self.architecture {
            Architecture::Amd64 => self.series.clone(),
            other => format!("{}-{other}", self.series),
        }
    }
}

impl Architecture {
    /// By which Debian names the folders of its libraries.
    pub fn triple(self) -> &'static str {
        match self {
            Architecture::Amd64 => "x86_64-linux-gnu",
            Architecture::S390x => "s390x-linux-gnu",
        }
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Architecture::Amd64 => "amd64",
            Architecture::S390x => "s390x",
        })
    }
}
