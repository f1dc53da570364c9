//! The checked-in objects, and the list of those objects that the running kernel must accept.

use std::fs;
use std::path::PathBuf;
use std::sync::LazyLock;

use anyhow::{Context, Result};
use laminar_xdp::{Outcome, XdpError, XdpLoader};
use laminar_xdp_prebuilt::{ByteOrder, Feature, Layer, Manifest, ObjectEntry, embedded};
use tempfile::TempDir;
use testbed::{TestNet, kernel};

use super::config::{config, load};
use super::machine::online_cpus;

/// The target that supports the oldest kernels.
pub const BASELINE: &str = "linux-4.15";

/// The targets whose objects the running kernel must accept, best first. The list comes from the
/// manifest, so the tests also cover targets that are added to the manifest later.
pub fn targets() -> &'static [&'static str] {
    static TARGETS: LazyLock<Vec<&'static str>> = LazyLock::new(|| {
        let accepted = |object: &&ObjectEntry| {
            kernel::has_multi_buffer() || !object.requires.iter().any(|name| name == "frags")
        };
        xdp_objects().iter().filter(accepted).map(|object| object.target.as_str()).collect()
    });
    &TARGETS
}

/// The targets of [`targets`] whose objects support lists, limits and samples.
pub fn targets_with_features() -> impl Iterator<Item = &'static str> {
    let has_features = |object: &&ObjectEntry| object.programs.len() > 1;
    let with_features = xdp_objects().iter().filter(has_features);
    let with_features: Vec<_> = with_features.map(|object| object.target.as_str()).collect();
    targets().iter().copied().filter(move |target| with_features.contains(target))
}

/// Whether the object of a target steers in generic mode, on kernels that redirect there. The kernel
/// then attaches only programs whose CPU map has 8-byte values, and loses the redirected packets of
/// programs for several buffers.
pub fn steers_in_generic_mode(target: &str) -> bool {
    requires(target, Feature::CpumapProgram) && !requires(target, Feature::Frags)
}

/// Whether the object of a target needs a feature of the kernel, according to the manifest.
fn requires(target: &str, feature: Feature) -> bool {
    let entry = xdp_objects().iter().find(|object| object.target == target);
    let entry = entry.expect("a target of the manifest");
    entry.requires.iter().any(|name| *name == feature.to_string())
}

/// The entries of the XDP objects for this machine's byte order.
fn xdp_objects() -> &'static [ObjectEntry] {
    static OBJECTS: LazyLock<Vec<ObjectEntry>> = LazyLock::new(|| {
        let objects = Manifest::parse(embedded::MANIFEST).expect("the embedded manifest").objects;
        let is_ours = |object: &ObjectEntry| {
            object.layer == Layer::Xdp && object.byte_order == ByteOrder::HOST
        };
        objects.into_iter().filter(is_ours).collect()
    });
    &OBJECTS
}

/// The file of the object that the running kernel prefers, among those for single-buffer packets.
pub fn best() -> String {
    object_of(targets()[0])
}

/// The file of the best object in generic mode. Before Linux 5.15, the best object in this mode
/// filters without steering.
pub fn best_in_generic_mode() -> String {
    if kernel::generic_mode_redirects() { best() } else { object_of("linux-5.3") }
}

/// The file of a target's object for this machine's byte order.
pub fn object_of(target: &str) -> String {
    format!("laminar_xdp.{target}.{}.o", ByteOrder::HOST)
}

/// The file of the object that a loader picked.
pub fn picked(loader: &XdpLoader) -> &str {
    let candidates = &loader.selection().candidates;
    let picked = candidates.iter().find(|c| matches!(c.outcome, Outcome::Picked { .. }));
    &picked.expect("the loader picked an object").file
}

/// The folder of the checked-in objects.
pub fn prebuilt() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../bpf-prebuilt"))
}

/// A copy of the checked-in objects and their manifest, which a test may change.
pub struct ObjectSet(TempDir);

impl ObjectSet {
    pub fn new() -> Result<ObjectSet> {
        let folder = TempDir::new()?;
        for entry in fs::read_dir(prebuilt())? {
            let path = entry?.path();
            if path.is_file() {
                fs::copy(&path, folder.path().join(path.file_name().context("no name")?))?;
            }
        }
        Ok(ObjectSet(folder))
    }

    /// A copy whose manifest lists no object for sockets, so that classic BPF chooses the
    /// socket.
    pub fn without_sockets_object() -> Result<ObjectSet> {
        let set = ObjectSet::new()?;
        let mut manifest = set.manifest()?;
        manifest.objects.retain(|object| object.layer == Layer::Xdp);
        set.write_manifest(&manifest.to_toml()?)?;
        Ok(set)
    }

    /// The path of a file in the set, or of the set's folder if `name` is empty.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn manifest(&self) -> Result<Manifest> {
        Ok(Manifest::parse(&fs::read_to_string(self.path(Manifest::FILE_NAME))?)?)
    }

    pub fn write_manifest(&self, text: &str) -> Result<()> {
        Ok(fs::write(self.path(Manifest::FILE_NAME), text)?)
    }

    /// Loads with the path of a file in the set, or with the path of the set's folder if `name` is
    /// empty.
    pub fn load(&self, net: &TestNet, name: &str) -> Result<XdpLoader, XdpError> {
        load(net, &config().bpf_object_path(self.path(name)).build()?, &online_cpus())
    }

    /// Tries to load from a path in the set and returns the error. Panics if loading succeeds,
    /// or if a program is attached afterwards.
    pub fn load_error(&self, net: &TestNet, name: &str) -> XdpError {
        let error = self.load(net, name).expect_err(name);
        assert!(!net.carries_xdp().unwrap(), "{name}: {error}");
        error
    }
}
