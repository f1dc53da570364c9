//! `bpf-src/targets.toml`: which objects there are to build, and why.

use std::collections::HashSet;
use std::ffi::CStr;

use anyhow::{Context, Result, ensure};
use laminar_xdp_prebuilt::{ByteOrder, Feature, Layer, abi};
use serde::Deserialize;

use crate::project::Project;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Targets {
    /// Version of the pinned clang.
    pub compiler: String,
    pub byte_orders: Vec<ByteOrder>,
    /// Name of the XDP target that suits most kernels.
    pub default: String,
    /// Best first in each layer.
    #[serde(rename = "target")]
    pub list: Vec<Target>,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// Where in the kernel its programs run.
    pub layer: Layer,
    pub name: String,
    pub since: String,
    /// What it can do that the one below it cannot, or the measured gain.
    pub reason: String,
    pub instruction_set: String,
    pub defines: Vec<String>,
    pub requires: Vec<String>,
}

impl Targets {
    pub fn read(project: &Project) -> Result<Targets> {
        let text = project.shell.read_file(Project::TARGETS)?;
        let targets: Targets = toml::from_str(&text).context(Project::TARGETS)?;
        let names: HashSet<_> = targets.list.iter().map(|target| &target.name).collect();
        ensure!(names.len() == targets.list.len(), "{}: a name twice", Project::TARGETS);
        ensure!(names.contains(&targets.default), "{}: no such default", Project::TARGETS);
        for target in &targets.list {
            ensure!(
                !target.reason.trim().is_empty(),
                "target {} has no reason to exist",
                target.name
            );
            target.check_since()?;
        }
        Ok(targets)
    }
}

impl Target {
    /// The name of this target's object for one byte order.
    pub fn file(&self, byte_order: ByteOrder) -> String {
        format!("laminar_{}.{}.{byte_order}.o", self.layer, self.name)
    }

    /// What it is compiled from.
    pub fn source(&self) -> &'static str {
        match self.layer {
            Layer::Xdp => "bpf-src/laminar_ingress.c",
            Layer::Sockets => "bpf-src/laminar_sockets.c",
        }
    }

    /// Fails unless `since` is the release of the newest feature required.
    fn check_since(&self) -> Result<()> {
        let features: Vec<Feature> =
            self.requires.iter().map(|name| name.parse()).collect::<Result<_, _>>()?;
        let newest = features.iter().max().map(|feature| feature.since());
        ensure!(
            newest == Some(self.since.as_str()),
            "target {} is of Linux {}, but the newest feature that it requires of {newest:?}",
            self.name,
            self.since
        );
        Ok(())
    }

    fn defines(&self, name: &str) -> bool {
        self.defines.iter().any(|define| define == name)
    }

    /// Whether its settings are constants rather than a map.
    pub fn has_global_data(&self) -> bool {
        self.defines("LAMINAR_GLOBAL_DATA")
    }

    /// Its programs and their sections, by which libbpf and other people's tools know
    /// their kinds.
    pub fn programs(&self) -> Vec<(&'static CStr, &'static str)> {
        match self.layer {
            Layer::Xdp => {
                let frags = self.defines("LAMINAR_FRAGS");
                let section = if frags { "xdp.frags" } else { "xdp" };
                let guarded = if frags { "?xdp.frags" } else { "?xdp" };
                let guarded =
                    self.has_features().then_some((abi::LAMINAR_PROGRAM_GUARDED, guarded));
                guarded.into_iter().chain([(abi::LAMINAR_PROGRAM, section)]).collect()
            }
            Layer::Sockets => vec![
                (abi::LAMINAR_PROGRAM_FILTER, "socket"),
                (abi::LAMINAR_PROGRAM_SELECT, "sk_reuseport"),
            ],
        }
    }

    /// Whether user space can ask for more than the verdict table.
    pub fn has_features(&self) -> bool {
        self.defines("LAMINAR_FEATURES")
    }

    /// Bytes of a value in its CPU map.
    pub fn cpu_map_value_size(&self) -> usize {
        if self.defines("LAMINAR_CPUMAP_PROGRAM") { 8 } else { 4 }
    }
}
