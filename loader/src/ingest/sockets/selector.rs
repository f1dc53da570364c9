//! Chooses the programs that select and filter the sockets: loaded eBPF programs, or classic BPF
//! if eBPF programs cannot be loaded.

use laminar_xdp_prebuilt::{ByteOrder, Layer, abi};

use crate::artifact::Artifact;
use crate::object::{
    KernelFeatures, LoadedSockets, SharedMaps, Sizing, capabilities, incompatibility, load_sockets,
};
use crate::partitions::Partitions;
use crate::report::XdpError;

/// The programs that select the socket of a datagram and filter it.
#[derive(Debug)]
pub enum Selector {
    /// Loaded eBPF programs. If XDP steers, XDP uses the table of owners of these programs.
    Loaded(Box<LoadedSockets>),
    /// Classic BPF, for this reason.
    ClassicBpf(String),
}

/// Loads the programs that select and filter. If they cannot be loaded, returns classic BPF
/// with the reason.
pub fn choose(
    settings: &abi::laminar_settings,
    partitions: &Partitions,
    artifact: Result<&Artifact, &XdpError>,
    features: &mut KernelFeatures,
) -> Selector {
    let loaded = || -> Result<LoadedSockets, String> {
        let artifact = artifact.map_err(|error| error.with_causes().to_string())?;
        let loaded = load(settings, partitions, artifact, features, &[])?;
        let filled = partitions.fill_table(&loaded.steering, false);
        filled.map_err(|error| error.with_causes().to_string())?;
        Ok(loaded)
    };
    match { loaded }() {
        Ok(loaded) => Selector::Loaded(Box::new(loaded)),
        Err(reason) => Selector::ClassicBpf(reason),
    }
}

/// Loads this process's programs for the sockets that another process hands over. The new
/// programs use the maps of the other process's programs. If none of this process's objects can
/// be loaded, the other process's programs stay. If the other process uses classic BPF, this
/// process uses classic BPF as well, and does not replace the selector: Linux 6.18 frees a
/// replaced classic selector while packets still run through it.
pub fn take_over(
    settings: &abi::laminar_settings,
    partitions: &Partitions,
    artifact: &Artifact,
    features: &mut KernelFeatures,
    running: Option<LoadedSockets>,
) -> Selector {
    let Some(running) = running else {
        return Selector::ClassicBpf("the former process uses classic BPF".into());
    };
    let shared = [
        (abi::LAMINAR_MAP_SOCKETS, &running.sockets),
        (abi::LAMINAR_MAP_STATS, &running.stats),
        (abi::LAMINAR_MAP_STEERING, &running.steering),
    ];
    let loaded = load(settings, partitions, artifact, features, &shared);
    Selector::Loaded(Box::new(loaded.unwrap_or_else(|reason| {
        tracing::warn!(reason, "keeping the socket programs of the former process");
        running
    })))
}

/// Tries the objects of the sockets' layer in order. Loads the first object that this kernel
/// accepts.
fn load(
    settings: &abi::laminar_settings,
    partitions: &Partitions,
    artifact: &Artifact,
    features: &mut KernelFeatures,
    shared: SharedMaps,
) -> Result<LoadedSockets, String> {
    let sizing = Sizing { settings: *settings, cpu_slots: partitions.cpu_slots(), shared };
    capabilities::check_descriptors().map_err(|error| error.with_causes().to_string())?;
    let mut reason = format!("{} has no object for sockets", artifact.origin);
    for object in artifact.objects.iter().filter(|object| object.layer() == Layer::Sockets) {
        let Some(entry) = &object.entry else { continue };
        // Every set also has objects of the other byte order. The error of such an object would
        // hide the real reason.
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
