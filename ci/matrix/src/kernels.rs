//! `kernels.toml`: the kernels on which the tests have to run.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use anyhow::{Context, Error, Result, ensure};
use laminar_xdp_prebuilt::ByteOrder;
use serde::{Deserialize, Serialize};

use crate::release::Release;

/// The whole file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kernels {
    pub userland_suite: String,
    pub rust_suite: String,
    pub stable: Vec<Stable>,
    pub backports: Vec<Backports>,
    pub unexecuted: Vec<Unexecuted>,
}

/// A series of a stable suite. The run fails if the suite does not have the series.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stable {
    pub series: Release,
    pub architecture: Architecture,
    pub suite: String,
}

/// A backports suite, which adds and removes series over time.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Backports {
    pub suite: String,
    pub architecture: Architecture,
    /// The number of series to boot. The newest series are selected.
    pub newest: usize,
}

/// Releases for which no kernel can be booted.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Unexecuted {
    pub from: Release,
    pub before: Release,
    pub byte_orders: Vec<ByteOrder>,
    pub reason: String,
}

/// An architecture, by Debian's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Architecture {
    Amd64,
    S390x,
}

/// The matrix's name for a kernel. For amd64 it is only the series, such as `6.12`. For another
/// architecture, the architecture follows, as in `6.12-s390x`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct KernelName {
    pub series: Release,
    pub architecture: Architecture,
}

impl Kernels {
    pub fn read() -> Result<Kernels> {
        let kernels: Kernels =
            toml::from_str(include_str!("../kernels.toml")).context("kernels.toml")?;
        let count = Backports::RANKS.len();
        for Backports { suite, newest, .. } in &kernels.backports {
            ensure!(
                (1..=count).contains(newest),
                "kernels.toml: {suite}: `newest` must be 1 to {count}"
            );
        }
        Ok(kernels)
    }

    /// Returns every suite from which `kernels.toml` takes kernels, with the architecture of those
    /// kernels.
    pub fn suites(&self) -> BTreeSet<(Architecture, &str)> {
        let stable = self.stable.iter().map(|stable| (stable.architecture, &*stable.suite));
        let backports = self.backports.iter().map(|source| (source.architecture, &*source.suite));
        stable.chain(backports).collect()
    }
}

impl Stable {
    pub fn name(&self) -> KernelName {
        KernelName { series: self.series, architecture: self.architecture }
    }
}

impl Backports {
    /// The names of the kernels in a suite, from the newest series to older ones.
    pub const RANKS: [&str; 3] = ["newest", "second newest", "third newest"];
}

impl Architecture {
    const ALL: [Architecture; 2] = [Architecture::Amd64, Architecture::S390x];

    /// The name of Debian's library folders for this architecture.
    pub fn triple(self) -> &'static str {
        match self {
            Architecture::Amd64 => "x86_64-linux-gnu",
            Architecture::S390x => "s390x-linux-gnu",
        }
    }

    /// The suffix of the names of this architecture's kernel packages. On amd64 this is the
    /// cloud flavour: it is smaller than the general flavour and has everything the tests need.
    pub fn flavour(self) -> &'static str {
        match self {
            Architecture::Amd64 => "cloud-amd64",
            Architecture::S390x => "s390x",
        }
    }

    pub fn byte_order(self) -> ByteOrder {
        match self {
            Architecture::Amd64 => ByteOrder::Bpfel,
            Architecture::S390x => ByteOrder::Bpfeb,
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

impl fmt::Display for KernelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.architecture {
            Architecture::Amd64 => write!(f, "{}", self.series),
            other => write!(f, "{}-{other}", self.series),
        }
    }
}

impl FromStr for KernelName {
    type Err = Error;

    fn from_str(text: &str) -> Result<KernelName> {
        let (series, architecture) = match text.split_once('-') {
            None => (text, Some(Architecture::Amd64)),
            Some((series, name)) => {
                let known = Architecture::ALL.into_iter().find(|known| known.to_string() == name);
                (series, known)
            }
        };
        let name = series.parse().ok().zip(architecture);
        let (series, architecture) = name.with_context(|| {
            format!("{text:?} is not a kernel series such as 6.12, or 6.12-s390x")
        })?;
        Ok(KernelName { series, architecture })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_names_parse_to_what_they_display() {
        for name in ["6.12", "6.12-s390x"] {
            assert_eq!(name.parse::<KernelName>().unwrap().to_string(), name);
        }
        for other in ["newest", "6", "6.12-arm64", "6.12.1", ""] {
            let error = other.parse::<KernelName>().unwrap_err().to_string();
            assert!(error.contains("is not a kernel series"), "{error}");
        }
    }

    #[test]
    fn the_file_in_the_repository_is_valid() {
        let kernels = Kernels::read().unwrap();
        let byte_orders: Vec<_> = kernels.suites().iter().map(|(a, _)| a.byte_order()).collect();
        assert!(byte_orders.contains(&ByteOrder::Bpfel));
        assert!(byte_orders.contains(&ByteOrder::Bpfeb));
    }
}
