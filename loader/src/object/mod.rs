//! Loads the bytes of an object into the kernel as programs and maps.

pub mod capabilities;
mod counters;
pub mod incompatibility;
mod kernel_features;
pub mod layout;
mod open_object;
mod redirect_program;
mod settings;

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Mutex;

use laminar_xdp_prebuilt::{Layer, abi};

use crate::config::{SourceLists, XdpConfig};
use crate::object::open_object::OpenObject;
use crate::sys::libbpf_print;
use crate::sys::map::Map;
use crate::sys::ring_buffer::RingBuffer;

pub use counters::{read_counters, read_packets};
pub use kernel_features::KernelFeatures;
pub use open_object::LoadFailure;
pub use redirect_program::redirect_program;
pub use settings::{
    ControlValues, LISTED, SharedMaps, Sizing, SocketSettings, features, prefix_key, settings,
};

/// A loaded XDP program and its maps. Dropping this value unloads the program, unless the program
/// is attached.
#[derive(Debug)]
pub struct LoadedXdp {
    pub program: OwnedFd,
    /// Whether the program accepts packets that are stored in several buffers.
    pub multi_buffer: bool,
    pub cpu_map: Map,
    pub stats: Map,
    pub steering: Map,
    /// `None` for a program that another process loaded, because only the process that loads a
    /// program has the program's control maps.
    pub controls: Option<ControlMaps>,
}

/// The maps through which a running program is controlled.
#[derive(Debug)]
pub struct ControlMaps {
    /// Bits of `enum laminar_feature`.
    pub features: u32,
    /// Whether the program can filter more than one port.
    pub several_ports: bool,
    /// Holds `struct laminar_controls`.
    pub values: Map,
    pub deny: Option<Map>,
    pub allow: Option<Map>,
    pub samples: Option<Mutex<RingBuffer>>,
}

/// The programs that select and filter sockets, with their maps.
#[derive(Debug)]
pub struct LoadedSockets {
    pub select: OwnedFd,
    pub filter: OwnedFd,
    pub sockets: Map,
    pub stats: Map,
    pub steering: Map,
}

/// Loads an XDP object. The bytes need not be trusted: the object is checked against the schema
/// before it is loaded.
pub fn load_xdp(elf: &[u8], config: &XdpConfig, sizing: &Sizing) -> Result<LoadedXdp, LoadFailure> {
    with_libbpf_output(|| {
        let mut object = OpenObject::open(elf, Layer::Xdp)?;
        let features = sizing.settings.features;
        let program = object.select_program(features, config)?;
        let controls = ControlValues::initial(config).to_bytes();
        object.load(abi::LAMINAR_MAP_CPU, sizing, &controls)?;

        let loaded = || {
            Ok(LoadedXdp {
                program: object.program(program)?,
                multi_buffer: object.is_multi_buffer(),
                cpu_map: object.map(abi::LAMINAR_MAP_CPU)?,
                stats: object.map(abi::LAMINAR_MAP_STATS)?,
                steering: object.map(abi::LAMINAR_MAP_STEERING)?,
                controls: Some(control_maps(&object, features, config.source_lists.as_ref())?),
            })
        };
        loaded().map_err(LoadFailure::of("its maps cannot be used"))
    })
}

/// Loads an object of the sockets' layer.
pub fn load_sockets(elf: &[u8], sizing: &Sizing) -> Result<LoadedSockets, LoadFailure> {
    with_libbpf_output(|| {
        let mut object = OpenObject::open(elf, Layer::Sockets)?;
        object.load(abi::LAMINAR_MAP_SOCKETS, sizing, &[])?;
        let loaded = || {
            Ok(LoadedSockets {
                select: object.program(abi::LAMINAR_PROGRAM_SELECT)?,
                filter: object.program(abi::LAMINAR_PROGRAM_FILTER)?,
                sockets: object.map(abi::LAMINAR_MAP_SOCKETS)?,
                stats: object.map(abi::LAMINAR_MAP_STATS)?,
                steering: object.map(abi::LAMINAR_MAP_STEERING)?,
            })
        };
        loaded().map_err(LoadFailure::of("its maps cannot be used"))
    })
}

/// Opens the control maps of a loaded object and writes the configured prefixes into the source
/// lists.
fn control_maps(
    object: &OpenObject,
    features: u32,
    lists: Option<&SourceLists>,
) -> io::Result<ControlMaps> {
    let is_on = |feature| features & feature != 0;
    let in_global_data = object.has_map(abi::LAMINAR_MAP_DATA);
    let values = if in_global_data { abi::LAMINAR_MAP_DATA } else { abi::LAMINAR_MAP_CONTROLS };
    let list = |name, prefixes: &[ipnet::IpNet]| -> io::Result<Map> {
        let map = object.map(name)?;
        prefixes.iter().try_for_each(|prefix| map.put(&prefix_key(prefix), &LISTED))?;
        Ok(map)
    };
    let lists = lists.filter(|_| is_on(abi::LAMINAR_FEATURE_LISTS));
    let samples = match is_on(abi::LAMINAR_FEATURE_SAMPLES) {
        true => Some(Mutex::new(RingBuffer::new(&object.map(abi::LAMINAR_MAP_SAMPLES)?)?)),
        false => None,
    };
    Ok(ControlMaps {
        features,
        several_ports: !object.has_features() || is_on(abi::LAMINAR_FEATURE_PORTS),
        values: object.map(values)?,
        deny: lists.map(|lists| list(abi::LAMINAR_MAP_DENY, &lists.deny)).transpose()?,
        allow: lists.map(|lists| list(abi::LAMINAR_MAP_ALLOW, &lists.allow)).transpose()?,
        samples,
    })
}

/// Adds libbpf's first warning to a failure, unless the failure has a verifier log.
fn with_libbpf_output<T>(load: impl FnOnce() -> Result<T, LoadFailure>) -> Result<T, LoadFailure> {
    let (result, output) = libbpf_print::capture(load);
    result.map_err(|mut failure| {
        let mut lines = output.lines().map(|line| line.trim_start_matches("libbpf: ").trim());
        if failure.verifier_log.text().is_empty()
            && let Some(first) = lines.find(|line| !line.is_empty())
        {
            failure.reason = format!("{} (libbpf: {first})", failure.reason);
        }
        failure
    })
}
