//! One object on its way into the kernel: open, check, configure, load.

use std::ffi::CStr;
use std::io;
use std::os::fd::OwnedFd;

use laminar_xdp_prebuilt::abi;
use libbpf_sys as sys;

use crate::error::VerifierLog;
use crate::kernel::libbpf::object::{MapDefinition, Object, ProgramDefinition};
use crate::kernel::messages;

pub use crate::kernel::libbpf::object::Map;

/// What the loader decides about an object before the kernel sees it.
pub struct Settings {
    /// UDP port, host byte order.
    pub port: u16,
    pub partitions: u32,
    /// Slots of the CPU map.
    pub cpu_slots: u32,
}

/// A program that the kernel accepted, with its maps. Closing all of it unloads
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

/// Why an object could not be loaded.
#[derive(Debug)]
pub struct LoadFailure {
    /// What was being done, the kernel's or libbpf's error, and what to do.
    pub reason: String,
    pub verifier_log: VerifierLog,
}

/// Loads an object, which may come from anywhere.
pub fn load(elf: &[u8], settings: &Settings) -> Result<Loaded, LoadFailure> {
    let (result, messages) = messages::capture(|| load_quietly(elf, settings));
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

fn load_quietly(elf: &[u8], settings: &Settings) -> Result<Loaded, LoadFailure> {
    let mut object = Object::open(elf)
        .map_err(failed("the file is damaged, reinstall it: the ELF file cannot be read"))?;
    let multi_buffer = *check_shape(&object)?.section == *c"xdp.frags";

    let has_global_data = object.maps().iter().any(|m| *m.name == *abi::LAMINAR_MAP_RODATA);
    let data = settings_bytes(settings);
    object
        .resize_map(abi::LAMINAR_MAP_CPU, settings.cpu_slots)
        .map_err(failed("the CPU map cannot be resized"))?;
    object
        .resize_map(abi::LAMINAR_MAP_STEERING, settings.partitions)
        .map_err(failed("the steering table cannot be resized"))?;
    if has_global_data {
        object
            .set_global_data(abi::LAMINAR_MAP_RODATA, &data)
            .map_err(failed("the settings cannot be written"))?;
    }

    object.load(abi::LAMINAR_PROGRAM).map_err(|(error, log)| LoadFailure {
        verifier_log: VerifierLog::new(log),
        ..explain_load(error, settings)
    })?;

    if !has_global_data {
        object
            .map(abi::LAMINAR_MAP_SETTINGS)
            .and_then(|map| map.update(0, &data))
            .map_err(failed("the settings cannot be written"))?;
    }
    let loaded = || -> io::Result<Loaded> {
        Ok(Loaded {
            program: object.program(abi::LAMINAR_PROGRAM)?,
            multi_buffer,
            cpu_map: object.map(abi::LAMINAR_MAP_CPU)?,
            stats: object.map(abi::LAMINAR_MAP_STATS)?,
            steering: object.map(abi::LAMINAR_MAP_STEERING)?,
        })
    };
    loaded().map_err(failed("its descriptors cannot be duplicated"))
}

/// Refuses whatever is not our program with our maps, before it reaches the
/// kernel: other maps could be pinned ones of somebody else. Gives the program.
fn check_shape(object: &Object) -> Result<ProgramDefinition, LoadFailure> {
    let refuse = |problem: String| {
        Err(failed("it is not an object of laminar-xdp")(io::Error::other(problem)))
    };
    let is_our_program = |program: &ProgramDefinition| {
        program.kind == sys::BPF_PROG_TYPE_XDP && *program.name == *abi::LAMINAR_PROGRAM
    };
    let program = match <[_; 1]>::try_from(object.programs()) {
        Ok([program]) if is_our_program(&program) => program,
        other => {
            return refuse(format!("it has not one XDP program laminar_ingress, but {other:?}"));
        }
    };
    let maps = object.maps();
    for map in &maps {
        if map.pinned || map.key_size != 4 || !is_our_map(map) {
            return refuse(format!(
                "its map {:?} (type {}, {} byte keys, {} byte values, {} entries, pinned: {}) is \
                 none of ours",
                map.name, map.kind, map.key_size, map.value_size, map.entries, map.pinned
            ));
        }
    }
    let has = |name: &CStr| maps.iter().any(|map| *map.name == *name);
    let required = [abi::LAMINAR_MAP_CPU, abi::LAMINAR_MAP_STATS, abi::LAMINAR_MAP_STEERING];
    if let Some(missing) = required.into_iter().find(|name| !has(name)) {
        return refuse(format!("it has no map {missing:?}"));
    }
    match has(abi::LAMINAR_MAP_RODATA) != has(abi::LAMINAR_MAP_SETTINGS) {
        true => Ok(program),
        false => refuse("it has no place for the settings, or two".into()),
    }
}

fn is_our_map(map: &MapDefinition) -> bool {
    const SETTINGS_SIZE: u32 = size_of::<abi::laminar_settings>() as u32;
    const REASONS: u32 = abi::LAMINAR_REASON_COUNT;
    // Name, type, value sizes, and the entries where the loader sets none.
    type Known = (&'static CStr, sys::bpf_map_type, &'static [u32], Option<u32>);
    let known: [Known; 5] = [
        (abi::LAMINAR_MAP_CPU, sys::BPF_MAP_TYPE_CPUMAP, &[4, 8], None),
        (abi::LAMINAR_MAP_STATS, sys::BPF_MAP_TYPE_PERCPU_ARRAY, &[8], Some(REASONS)),
        (abi::LAMINAR_MAP_STEERING, sys::BPF_MAP_TYPE_ARRAY, &[4], None),
        (abi::LAMINAR_MAP_SETTINGS, sys::BPF_MAP_TYPE_ARRAY, &[SETTINGS_SIZE], Some(1)),
        (abi::LAMINAR_MAP_RODATA, sys::BPF_MAP_TYPE_ARRAY, &[SETTINGS_SIZE], Some(1)),
    ];
    known.iter().any(|(name, kind, value_sizes, entries)| {
        *map.name == **name
            && map.kind == *kind
            && value_sizes.contains(&map.value_size)
            && entries.is_none_or(|entries| map.entries == entries)
    })
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
