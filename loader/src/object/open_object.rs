//! An object that libbpf has opened: selects its program, configures it, and loads it.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::OwnedFd;

use laminar_xdp_prebuilt::{Layer, abi};

use crate::config::XdpConfig;
use crate::object::layout;
use crate::object::settings::{SAMPLES_SIZE, Sizing};
use crate::report::VerifierLog;
use crate::sys;
use crate::sys::libbpf::{Object, ProgramDefinition};
use crate::sys::map::Map;

/// The smallest number of entries for each CPU in the table of sources, which is an LRU map. The
/// kernel gives the free entries of an LRU map to CPUs in batches of up to 128. If the table is
/// too small, a CPU may get no batch. That CPU then reuses one entry for every source, so no
/// source on that CPU reaches its limit. With 256 entries for each CPU, every CPU gets a batch.
const MIN_SOURCES_PER_CPU: u32 = 256;

/// Why an object could not be loaded.
#[derive(Debug)]
pub struct LoadFailure {
    /// The step that failed, what to do about it, and the kernel's or libbpf's error.
    pub reason: String,
    /// The verifier's log; empty if the verifier did not run.
    pub verifier_log: VerifierLog,
}

impl LoadFailure {
    /// Converts a system error into the failure of `step`.
    pub fn of(step: &str) -> impl Fn(io::Error) -> LoadFailure {
        move |error| LoadFailure {
            reason: format!("{step}: {error}"),
            verifier_log: VerifierLog::default(),
        }
    }
}

/// An object whose programs and maps match the schema.
pub struct OpenObject {
    object: Object,
    programs: Vec<ProgramDefinition>,
    maps: Vec<CString>,
}

impl OpenObject {
    pub fn open(elf: &[u8], layer: Layer) -> Result<OpenObject, LoadFailure> {
        let object = Object::open(elf).map_err(|error| {
            let step = match error.raw_os_error() {
                Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM) => "it cannot be opened",
                _ => "the file is damaged, reinstall it: the ELF file cannot be read",
            };
            LoadFailure::of(step)(error)
        })?;
        let programs = layout::check(&object, layer).map_err(|problem| {
            LoadFailure::of("it is not an object of laminar-xdp")(io::Error::other(problem))
        })?;
        let maps = object.maps().into_iter().map(|map| map.name).collect();
        Ok(OpenObject { object, programs, maps })
    }

    pub fn has_map(&self, name: &CStr) -> bool {
        self.maps.iter().any(|map| **map == *name)
    }

    /// Whether the object has a second program, which supports features.
    pub fn has_features(&self) -> bool {
        self.programs.iter().any(|program| *program.name == *abi::LAMINAR_PROGRAM_GUARDED)
    }

    pub fn is_multi_buffer(&self) -> bool {
        self.programs.iter().any(|program| *program.section == *c"xdp.frags")
    }

    /// Selects the program to load: the program with features if `features` is not 0,
    /// otherwise the plain program. Maps of enabled features get their configured size; the
    /// other maps keep their minimal size.
    pub fn select_program(
        &mut self,
        features: u32,
        config: &XdpConfig,
    ) -> Result<&'static CStr, LoadFailure> {
        if !self.has_features() {
            // An object without a second program always filters several ports, so the feature PORTS
            // is no reason to refuse it.
            if features & !abi::LAMINAR_FEATURE_PORTS == 0 {
                return Ok(abi::LAMINAR_PROGRAM);
            }
            let advice = "the objects linux-5.9 and linux-5.18 have them";
            let step = "it has no limits, lists or samples";
            return Err(LoadFailure::of(step)(io::Error::other(advice)));
        }
        let (program, other) = match features {
            0 => (abi::LAMINAR_PROGRAM, abi::LAMINAR_PROGRAM_GUARDED),
            _ => (abi::LAMINAR_PROGRAM_GUARDED, abi::LAMINAR_PROGRAM),
        };
        let sources = max_sources(features, config)?;
        let object = &mut self.object;
        let mut select = || {
            object.set_autoload(program, true)?;
            object.set_autoload(other, false)?;
            for (map, feature, entries) in [
                (abi::LAMINAR_MAP_SOURCES, abi::LAMINAR_FEATURE_LIMIT, sources),
                (abi::LAMINAR_MAP_DENY, abi::LAMINAR_FEATURE_LISTS, config.max_prefixes),
                (abi::LAMINAR_MAP_ALLOW, abi::LAMINAR_FEATURE_LISTS, config.max_prefixes),
                (abi::LAMINAR_MAP_SAMPLES, abi::LAMINAR_FEATURE_SAMPLES, SAMPLES_SIZE),
            ] {
                if features & feature != 0 {
                    object.resize_map(map, entries)?;
                }
            }
            Ok(program)
        };
        select().map_err(LoadFailure::of("its features cannot be selected"))
    }

    /// Writes settings and control values, and loads the object. `keyed_by_cpu` is the name of
    /// the map that has one slot for each CPU id. `controls` is empty for socket programs.
    pub fn load(
        &mut self,
        keyed_by_cpu: &CStr,
        sizing: &Sizing,
        controls: &[u8],
    ) -> Result<(), LoadFailure> {
        let settings = &sizing.settings.to_ne_bytes()[..];
        let object = &mut self.object;
        object
            .resize_map(keyed_by_cpu, sizing.cpu_slots)
            .map_err(LoadFailure::of("the map of CPUs cannot be resized"))?;
        object
            .resize_map(abi::LAMINAR_MAP_STEERING, sizing.settings.partitions)
            .map_err(LoadFailure::of("the steering table cannot be resized"))?;
        for (name, map) in sizing.shared {
            object
                .reuse_map(name, map)
                .map_err(LoadFailure::of("an existing map cannot be used"))?;
        }
        let not_written = LoadFailure::of("the settings cannot be written");
        // Global data is set before loading, because the verifier treats read-only data as
        // constants.
        for (data, bytes) in
            [(abi::LAMINAR_MAP_RODATA, settings), (abi::LAMINAR_MAP_DATA, controls)]
        {
            if self.has_map(data) {
                self.object.set_global_data(data, bytes).map_err(&not_written)?;
            }
        }
        self.object.load().map_err(|(error, log)| LoadFailure {
            verifier_log: VerifierLog::new(log),
            ..explain_load(error, sizing.cpu_slots)
        })?;
        // An object without global data has maps for these bytes. The maps exist only after
        // loading.
        for (name, bytes) in
            [(abi::LAMINAR_MAP_SETTINGS, settings), (abi::LAMINAR_MAP_CONTROLS, controls)]
        {
            if self.has_map(name) {
                let written = self.object.map(name).and_then(|map| map.update(0, bytes));
                written.map_err(&not_written)?;
            }
        }
        Ok(())
    }

    /// A map of the loaded object.
    pub fn map(&self, name: &CStr) -> io::Result<Map> {
        self.object.map(name)
    }

    /// A program of the loaded object.
    pub fn program(&self, name: &CStr) -> io::Result<OwnedFd> {
        self.object.program(name)
    }
}

/// The number of entries in the table of sources. Each entry holds one source's token bucket.
fn max_sources(features: u32, config: &XdpConfig) -> Result<u32, LoadFailure> {
    if features & abi::LAMINAR_FEATURE_LIMIT == 0 {
        return Ok(config.max_sources); // not used: the table keeps its minimal size
    }
    let cpus = sys::cpus::possible().map_err(LoadFailure::of("the CPUs cannot be counted"))?;
    let cpus = u32::try_from(cpus.len()).unwrap_or(u32::MAX);
    Ok(config.max_sources.max(MIN_SOURCES_PER_CPU.saturating_mul(cpus)))
}

/// Converts the kernel's errno of a failed load into a failure with advice.
fn explain_load(error: io::Error, cpu_slots: u32) -> LoadFailure {
    let what = match error.raw_os_error() {
        Some(libc::E2BIG) => format!(
            "the kernel finds it too big (a CPU map of {cpu_slots} slots is more than its NR_CPUS, \
             or the program is too complex); use CPUs with lower ids, or another object"
        ),
        Some(libc::EPERM) => "the kernel does not allow it (a capability is missing, or \
             RLIMIT_MEMLOCK is too low on a kernel before 5.11)"
            .into(),
        Some(libc::ENOMEM) => {
            "there is no memory for it; lower max_sources, max_prefixes or partitions".into()
        }
        _ => "the kernel refused it".into(),
    };
    LoadFailure::of(&what)(error)
}
