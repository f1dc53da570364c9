//! One object on its way into the kernel, and what comes of it.

use std::io;
use std::os::fd::OwnedFd;

use laminar_xdp_prebuilt::{Layer, abi};

use crate::config::XdpConfig;
use crate::error::VerifierLog;
use crate::kernel::controls::{self, Values, XdpControls};
use crate::kernel::messages;
use crate::kernel::parsed::{Parsed, Settings};

pub use crate::kernel::libbpf::object::Map;

/// An XDP program that the kernel accepted, with its maps. Closing all of it unloads
/// the program, unless it is attached.
#[derive(Debug)]
pub struct Loaded {
    pub program: OwnedFd,
    /// Whether it takes packets that lie in several buffers.
    pub multi_buffer: bool,
    pub cpu_map: Map,
    pub stats: Map,
    pub steering: Map,
    pub controls: XdpControls,
}

/// The programs of the sockets' layer, with their maps.
#[derive(Debug)]
pub struct LoadedForSockets {
    pub select: OwnedFd,
    pub filter: OwnedFd,
    pub sockets: Map,
    pub stats: Map,
    pub steering: Map,
}

/// Why an object could not be loaded.
#[derive(Debug)]
pub struct LoadFailure {
    /// What was being done, the kernel's or libbpf's error, and what to do.
    pub reason: String,
    pub verifier_log: VerifierLog,
}

/// Loads an XDP object, which may come from anywhere.
pub fn load(elf: &[u8], settings: &Settings, config: &XdpConfig) -> Result<Loaded, LoadFailure> {
    explained(|| {
        let mut object = Parsed::open(elf, Layer::Xdp)?;
        let features = controls::features(config);
        let is_guarded = object.choose_features(features, config)?;
        let values = Values::of(config);
        object.load(abi::LAMINAR_MAP_CPU, settings, features, Some(&values))?;

        let program = if is_guarded { abi::LAMINAR_PROGRAM_GUARDED } else { abi::LAMINAR_PROGRAM };
        let take = || {
            Ok(Loaded {
                program: object.program(program)?,
                multi_buffer: object.is_multi_buffer(),
                cpu_map: object.map(abi::LAMINAR_MAP_CPU)?,
                stats: object.map(abi::LAMINAR_MAP_STATS)?,
                steering: object.map(abi::LAMINAR_MAP_STEERING)?,
                controls: object.controls(features, values, config)?,
            })
        };
        take().map_err(failed("its maps cannot be used"))
    })
}

/// Loads an object of the sockets' layer.
pub fn load_for_sockets(elf: &[u8], settings: &Settings) -> Result<LoadedForSockets, LoadFailure> {
    explained(|| {
        let mut object = Parsed::open(elf, Layer::Sockets)?;
        object.load(abi::LAMINAR_MAP_SOCKETS, settings, 0, None)?;
        let take = || {
            Ok(LoadedForSockets {
                select: object.program(abi::LAMINAR_PROGRAM_SELECT)?,
                filter: object.program(abi::LAMINAR_PROGRAM_FILTER)?,
                sockets: object.map(abi::LAMINAR_MAP_SOCKETS)?,
                stats: object.map(abi::LAMINAR_MAP_STATS)?,
                steering: object.map(abi::LAMINAR_MAP_STEERING)?,
            })
        };
        take().map_err(failed("its maps cannot be used"))
    })
}

/// Adds to a failure what libbpf said.
fn explained<T>(load: impl FnOnce() -> Result<T, LoadFailure>) -> Result<T, LoadFailure> {
    let (result, messages) = messages::capture(load);
    result.map_err(|mut failure| {
        // Where the verifier spoke, libbpf only repeats it.
        let said = messages.lines().map(|line| line.trim_start_matches("libbpf: ").trim());
        if failure.verifier_log.text().is_empty()
            && let Some(first) = said.into_iter().find(|line| !line.is_empty())
        {
            failure.reason = format!("{} (libbpf: {first})", failure.reason);
        }
        failure
    })
}

pub(super) fn failed(what: &str) -> impl Fn(io::Error) -> LoadFailure {
    move |error| LoadFailure {
        reason: format!("{what}: {error}"),
        verifier_log: VerifierLog::default(),
    }
}
