//! One object on its way into the kernel: open, check, configure, load.

use std::ffi::CStr;
use std::io;
use std::os::fd::OwnedFd;

use laminar_xdp_prebuilt::{Layer, abi};

use crate::error::VerifierLog;
use crate::kernel::libbpf::object::Object;
use crate::kernel::{messages, shape};

pub use crate::kernel::libbpf::object::Map;

/// What the loader decides about an object before the kernel sees it.
pub struct Settings<'a> {
    /// UDP port, host byte order.
    pub port: u16,
    pub partitions: u32,
    /// Slots of the map that is keyed by CPU.
    pub cpu_slots: u32,
    /// Maps to use instead of new ones, by name.
    pub existing: &'a [(&'static CStr, &'a Map)],
}

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
pub fn load(elf: &[u8], settings: &Settings) -> Result<Loaded, LoadFailure> {
    load_layer(elf, Layer::Xdp, settings, |object, multi_buffer| {
        Ok(Loaded {
            program: object.program(abi::LAMINAR_PROGRAM)?,
            multi_buffer,
            cpu_map: object.map(abi::LAMINAR_MAP_CPU)?,
            stats: object.map(abi::LAMINAR_MAP_STATS)?,
            steering: object.map(abi::LAMINAR_MAP_STEERING)?,
        })
    })
}

/// Loads an object of the sockets' layer.
pub fn load_for_sockets(elf: &[u8], settings: &Settings) -> Result<LoadedForSockets, LoadFailure> {
    load_layer(elf, Layer::Sockets, settings, |object, _| {
        Ok(LoadedForSockets {
            select: object.program(abi::LAMINAR_PROGRAM_SELECT)?,
            filter: object.program(abi::LAMINAR_PROGRAM_FILTER)?,
            sockets: object.map(abi::LAMINAR_MAP_SOCKETS)?,
            stats: object.map(abi::LAMINAR_MAP_STATS)?,
            steering: object.map(abi::LAMINAR_MAP_STEERING)?,
        })
    })
}

fn load_layer<T>(
    elf: &[u8],
    layer: Layer,
    settings: &Settings,
    take: impl FnOnce(&Object, bool) -> io::Result<T>,
) -> Result<T, LoadFailure> {
    let (result, messages) = messages::capture(|| {
        let (object, multi_buffer) = load_quietly(elf, layer, settings)?;
        take(&object, multi_buffer).map_err(failed("its descriptors cannot be duplicated"))
    });
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

/// Gives the loaded object, and whether it takes packets in several buffers.
fn load_quietly(
    elf: &[u8],
    layer: Layer,
    settings: &Settings,
) -> Result<(Object, bool), LoadFailure> {
    let mut object = Object::open(elf)
        .map_err(failed("the file is damaged, reinstall it: the ELF file cannot be read"))?;
    let programs = shape::check(&object, layer).map_err(|problem| {
        failed("it is not an object of laminar-xdp")(io::Error::other(problem))
    })?;
    let multi_buffer = programs.iter().any(|program| *program.section == *c"xdp.frags");

    let has_global_data = object.maps().iter().any(|m| *m.name == *abi::LAMINAR_MAP_RODATA);
    let data = settings_bytes(settings);
    let keyed_by_cpu = match layer {
        Layer::Xdp => abi::LAMINAR_MAP_CPU,
        Layer::Sockets => abi::LAMINAR_MAP_SOCKETS,
    };
    object
        .resize_map(keyed_by_cpu, settings.cpu_slots)
        .map_err(failed("the map of CPUs cannot be resized"))?;
    object
        .resize_map(abi::LAMINAR_MAP_STEERING, settings.partitions)
        .map_err(failed("the steering table cannot be resized"))?;
    for (name, map) in settings.existing {
        object.reuse_map(name, map).map_err(failed("a map cannot be taken over"))?;
    }
    if has_global_data {
        object
            .set_global_data(abi::LAMINAR_MAP_RODATA, &data)
            .map_err(failed("the settings cannot be written"))?;
    }

    object.load().map_err(|(error, log)| LoadFailure {
        verifier_log: VerifierLog::new(log),
        ..explain_load(error, settings)
    })?;

    if !has_global_data {
        object
            .map(abi::LAMINAR_MAP_SETTINGS)
            .and_then(|map| map.update(0, &data))
            .map_err(failed("the settings cannot be written"))?;
    }
    Ok((object, multi_buffer))
}

/// `struct laminar_settings` as it stands in memory.
fn settings_bytes(settings: &Settings) -> [u8; size_of::<abi::laminar_settings>()] {
    let mut bytes = [0; size_of::<abi::laminar_settings>()];
    let port = std::mem::offset_of!(abi::laminar_settings, port);
    let partitions = std::mem::offset_of!(abi::laminar_settings, partitions);
    bytes[port..port + 2].copy_from_slice(&settings.port.to_be_bytes());
    bytes[partitions..partitions + 4].copy_from_slice(&settings.partitions.to_ne_bytes());
    bytes
}

fn failed(what: &str) -> impl Fn(io::Error) -> LoadFailure {
    move |error| LoadFailure {
        reason: format!("{what}: {error}"),
        verifier_log: VerifierLog::default(),
    }
}

/// The errnos of loading that a user meets, translated.
fn explain_load(error: io::Error, settings: &Settings) -> LoadFailure {
    let what = match error.raw_os_error() {
        Some(libc::E2BIG) => format!(
            "the kernel finds it too big (a CPU map of {} slots, more than its NR_CPUS, or too \
             complex a program); use CPUs with lower ids, or another object",
            settings.cpu_slots
        ),
        Some(libc::EPERM) => "the kernel does not allow it (a capability is missing, or \
             RLIMIT_MEMLOCK is too low on a kernel before 5.11)"
            .into(),
        _ => "the kernel refused it".into(),
    };
    failed(&what)(error)
}
