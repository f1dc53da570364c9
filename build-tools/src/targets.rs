//! `bpf-src/targets.toml`: the targets for which objects are built, and the reason for each.

use std::collections::HashSet;

use anyhow::{Context, Result, ensure};
use laminar_xdp_prebuilt::schema::Layout;
use laminar_xdp_prebuilt::{ByteOrder, Feature, Layer};
use serde::Deserialize;

use crate::project::Project;

/// The defines that `bpf-src/laminar_ingress.c` describes. Other defines are an error, because a
/// misspelled define would compile to an object without the feature.
const DEFINES: [&str; 5] = [
    "LAMINAR_GLOBAL_DATA",
    "LAMINAR_REDIRECT_VERDICT",
    "LAMINAR_CPUMAP_PROGRAM",
    "LAMINAR_FRAGS",
    "LAMINAR_FEATURES",
];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Targets {
    /// The version of the pinned clang, for example `19.1.7`.
    pub compiler: String,
    pub byte_orders: Vec<ByteOrder>,
    /// The name of the XDP target that works on most kernels.
    pub default: String,
    /// The targets, best first in each layer.
    #[serde(rename = "target")]
    pub list: Vec<Target>,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// Where in the kernel the programs run.
    pub layer: Layer,
    pub name: String,
    pub since: String,
    /// Why this target exists: a feature that the next target lacks, or a measured gain.
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
        ensure!(
            names.len() == targets.list.len(),
            "{}: two targets have the same name",
            Project::TARGETS
        );
        ensure!(
            names.contains(&targets.default),
            "{}: `default` names no target",
            Project::TARGETS
        );
        for target in &targets.list {
            ensure!(
                !target.reason.trim().is_empty(),
                "target {} has an empty `reason`",
                target.name
            );
            let unknown = target.defines.iter().find(|define| !DEFINES.contains(&define.as_str()));
            ensure!(unknown.is_none(), "target {}: unknown define {unknown:?}", target.name);
            target.check_since()?;
        }
        Ok(targets)
    }
}

impl Target {
    /// The file name of the object for one byte order.
    pub fn file(&self, byte_order: ByteOrder) -> String {
        format!("laminar_{}.{}.{byte_order}.o", self.layer, self.name)
    }

    /// The C file of the target.
    pub fn source(&self) -> &'static str {
        match self.layer {
            Layer::Xdp => "bpf-src/laminar_ingress.c",
            Layer::Sockets => "bpf-src/laminar_sockets.c",
        }
    }

    /// Fails unless `since` is the release of the newest required feature.
    fn check_since(&self) -> Result<()> {
        let features: Vec<Feature> =
            self.requires.iter().map(|name| name.parse()).collect::<Result<_, _>>()?;
        let newest = features.iter().max().map(|feature| feature.since());
        ensure!(
            newest == Some(self.since.as_str()),
            "target {}: `since` is {}, but its newest required feature appeared in {newest:?}",
            self.name,
            self.since
        );
        Ok(())
    }

    /// The layout of this target's object. The layout decides which programs and maps the object
    /// must have. Each define that changes the programs or maps is one property of the layout.
    pub fn layout(&self) -> Layout {
        let defines = |name: &str| self.defines.iter().any(|define| define == name);
        Layout {
            layer: self.layer,
            has_global_data: defines("LAMINAR_GLOBAL_DATA"),
            has_features: defines("LAMINAR_FEATURES"),
            has_cpumap_program: defines("LAMINAR_CPUMAP_PROGRAM"),
            has_frags: defines("LAMINAR_FRAGS"),
        }
    }
}
