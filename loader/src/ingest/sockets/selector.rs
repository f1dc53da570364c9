//! What selects among the sockets: a loaded program, or classic BPF with the reason.

use laminar_xdp_prebuilt::{ByteOrder, Layer, abi};

use crate::artifact::Artifact;
use crate::object::{
    KernelFeatures, LoadedSockets, SharedMaps, Sizing, incompatibility, load_sockets,
};
use crate::partitions::Partitions;
use crate::report::XdpError;

/// What selects the socket and filters.
#[derive(Debug)]
pub enum Selector {
    /// Loaded programs. If XDP steers, it uses the same table of owners.
    Loaded(Box<LoadedSockets>),
    /// Classic BPF, for this reason.
    ClassicBpf(String),
}

/// Loads the programs that select and filter, or says why classic BPF has to.
pub fn choose(
    partitions: &Partitions,
    artifact: Result<&Artifact, &XdpError>,
    features: &mut KernelFeatures,
) -> Selector {
    let loaded = || -> Result<LoadedSockets, String> {
        let artifact = artifact.map_err(|error| error.with_causes().to_string())?;
        let loaded = load(partitions, artifact, features, &[])?;
        let filled = partitions.fill_table(&loaded.steering, false);
        filled.map_err(|error| error.with_causes().to_string())?;
        Ok(loaded)
    };
    match { loaded }() {
        Ok(loaded) => Selector::Loaded(Box::new(loaded)),
        Err(reason) => Selector::ClassicBpf(reason),
    }
}

/// The same for sockets of another process, with the maps of its programs. If none of this
/// process's objects can be loaded, the other process's programs stay. Classic BPF stays
/// too: the kernel frees a classic selector that is replaced under traffic while packets
/// are in it (seen on 6.18).
pub fn take_over(
    partitions: &Partitions,
    artifact: &Artifact,
    features: &mut KernelFeatures,
    running: Option<LoadedSockets>,
) -> Selector {
    let Some(running) = running else {
        return Selector::ClassicBpf("the former process used classic BPF".into());
    };
    let shared = [
        (abi::LAMINAR_MAP_SOCKETS, &running.sockets),
        (abi::LAMINAR_MAP_STATS, &running.stats),
        (abi::LAMINAR_MAP_STEERING, &running.steering),
    ];
    let loaded = load(partitions, artifact, features, &shared);
    Selector::Loaded(Box::new(loaded.unwrap_or_else(|reason| {
        tracing::warn!(reason, "the socket programs of the former process stay");
        running
    })))
}

/// Loads the first object of the sockets' layer that this kernel takes.
fn load(
    partitions: &Partitions,
    artifact: &Artifact,
    features: &mut KernelFeatures,
    shared: SharedMaps,
) -> Result<LoadedSockets, String> {
    let sizing =
        Sizing { partitions: partitions.count(), cpu_slots: partitions.cpu_slots(), shared };
    let mut reason = format!("{} has no object for sockets", artifact.origin);
    for object in artifact.objects.iter().filter(|object| object.layer() == Layer::Sockets) {
        let Some(entry) = &object.entry else { continue };
        // Every set has objects of the other byte order: no reason worth reporting.
        if entry.byte_order != ByteOrder::HOST {
            continue;
        }
        let refused = incompatibility::with_library(entry, None)
            .or_else(|| incompatibility::with_kernel(entry, |feature| features.ask(feature)));
        reason = match refused {
            Some(refused) => format!("{}: {refused}", object.file),
            None => match load_sockets(&object.bytes, &sizing) {
                Ok(loaded) => return Ok(loaded),
                Err(failure) => format!("{}: {}", object.file, failure.reason),
            },
        };
    }
    Err(reason)
}
