//! What chooses among the sockets: an object, or classic BPF with the reason.

use std::ffi::CStr;

use laminar_xdp_prebuilt::{ByteOrder, Layer, abi};

use crate::artifact::{Artifact, ArtifactError};
use crate::kernel::object::{self, LoadedForSockets, Map};
use crate::kernel::parsed::Settings;
use crate::kernel::probe::Probes;
use crate::kernel::sockets::Selection;
use crate::kernel::steering::Steering;
use crate::select;

/// Loads the object that chooses and filters, or says why classic BPF has to do it.
pub fn choose(steering: &Steering, artifact: Result<&Artifact, &ArtifactError>) -> Selection {
    let chosen = choose_with(steering, artifact, &[]);
    let chosen = chosen.and_then(|loaded| match steering.write_all(&loaded.steering, false) {
        Ok(()) => Ok(loaded),
        Err(error) => Err(error.to_string()),
    });
    match chosen {
        Ok(loaded) => Selection::Object(Box::new(loaded)),
        Err(reason) => Selection::Classic(reason),
    }
}

/// The same for sockets that another process had, with its object's maps. If no object
/// of this process's can be loaded, what was there stays. So does classic BPF: a program
/// that is replaced there is freed while packets are in it (see `sockets`).
pub fn take_over(
    steering: &Steering,
    artifact: &Artifact,
    running: Option<LoadedForSockets>,
) -> Selection {
    let Some(running) = running else {
        return Selection::Classic("the process before chose by classic BPF".into());
    };
    let existing = [
        (abi::LAMINAR_MAP_SOCKETS, &running.sockets),
        (abi::LAMINAR_MAP_STATS, &running.stats),
        (abi::LAMINAR_MAP_STEERING, &running.steering),
    ];
    let chosen = choose_with(steering, Ok(artifact), &existing);
    Selection::Object(Box::new(chosen.unwrap_or_else(|reason| {
        tracing::warn!(reason, "the sockets' programs of the process before stay");
        running
    })))
}

fn choose_with(
    steering: &Steering,
    artifact: Result<&Artifact, &ArtifactError>,
    existing: &[(&'static CStr, &Map)],
) -> Result<LoadedForSockets, String> {
    let artifact = artifact.map_err(ToString::to_string)?;
    let (partitions, cpu_slots) = (steering.partitions(), steering.cpu_slots());
    let settings = Settings { partitions, cpu_slots, existing };
    let mut reason = format!("{} has no object for sockets", artifact.origin);
    let mut probes = Probes::default();
    for object in artifact.objects.iter().filter(|object| object.layer() == Layer::Sockets) {
        let Some(entry) = &object.entry else { continue };
        // The other byte order's is no news.
        if entry.byte_order != ByteOrder::HOST {
            continue;
        }
        let refusal = select::misfit(entry, None)
            .or_else(|| select::refusal(entry, |feature| probes.ask(feature)));
        reason = match refusal {
            Some(refusal) => format!("{}: {refusal}", object.file),
            None => match object::load_for_sockets(&object.bytes, &settings) {
                Ok(loaded) => return Ok(loaded),
                Err(failure) => format!("{}: {}", object.file, failure.reason),
            },
        };
    }
    Err(reason)
}
