//! An object before and while the kernel loads it: check, configure, load.

use std::ffi::{CStr, CString};
use std::io;
use std::mem::offset_of;
use std::os::fd::OwnedFd;
use std::sync::Mutex;

use laminar_xdp_prebuilt::{Layer, abi};

use crate::config::XdpConfig;
use crate::error::VerifierLog;
use crate::kernel::controls::{self, Held, SAMPLES_SIZE, Values, XdpControls};
use crate::kernel::libbpf::object::{Object, ProgramDefinition};
use crate::kernel::libbpf::ring::Ring;
use crate::kernel::object::{LoadFailure, Map, failed};
use crate::kernel::{shape, steering};

/// The kernel hands each CPU up to 128 places of a table of buckets at a time. Where that
/// would be all of them, a CPU that gets none takes the same place again and again, and
/// whoever sends through it is new each time: without a limit.
const LEAST_SOURCES_PER_CPU: u32 = 256;

/// What the loader decides about any object before the kernel sees it.
pub struct Settings<'a> {
    pub partitions: u32,
    /// Slots of the map that is keyed by CPU.
    pub cpu_slots: u32,
    /// Maps to use instead of new ones, by name.
    pub existing: &'a [(&'static CStr, &'a Map)],
}

/// An object that is one of ours.
pub struct Parsed {
    object: Object,
    programs: Vec<ProgramDefinition>,
    maps: Vec<CString>,
}

impl Parsed {
    pub fn open(elf: &[u8], layer: Layer) -> Result<Parsed, LoadFailure> {
        let object = Object::open(elf)
            .map_err(failed("the file is damaged, reinstall it: the ELF file cannot be read"))?;
        let programs = shape::check(&object, layer).map_err(|problem| {
            failed("it is not an object of laminar-xdp")(io::Error::other(problem))
        })?;
        let maps = object.maps().into_iter().map(|map| map.name).collect();
        Ok(Parsed { object, programs, maps })
    }

    fn has_map(&self, name: &CStr) -> bool {
        self.maps.iter().any(|map| **map == *name)
    }

    /// Whether there is a program with features, beside the one that has none.
    fn has_features(&self) -> bool {
        self.programs.iter().any(|program| *program.name == *abi::LAMINAR_PROGRAM_GUARDED)
    }

    pub fn is_multi_buffer(&self) -> bool {
        self.programs.iter().any(|program| *program.section == *c"xdp.frags")
    }

    /// Settles which of the two programs is loaded, and says whether it is the one with
    /// features; the maps of those that are wanted get the size that is. The others stay
    /// as they are: next to nothing.
    pub fn choose_features(
        &mut self,
        features: u32,
        config: &XdpConfig,
    ) -> Result<bool, LoadFailure> {
        if !self.has_features() {
            if features & !abi::LAMINAR_FEATURE_PORTS == 0 {
                return Ok(false); // looks for several ports in any case
            }
            let problem = "the objects linux-5.9 and linux-5.18 have them";
            let problem = failed("it has no limits, lists or samples")(io::Error::other(problem));
            return Err(problem);
        }
        let is_guarded = features != 0;
        let sources = match features & abi::LAMINAR_FEATURE_LIMIT {
            0 => config.max_sources, // of a table that stays as it is
            _ => {
                let cpus = steering::possible_cpus();
                let cpus = cpus.map_err(failed("the CPUs cannot be counted"))?.len() as u32;
                config.max_sources.max(LEAST_SOURCES_PER_CPU.saturating_mul(cpus))
            }
        };
        let object = &mut self.object;
        let mut choose = || {
            object.set_wanted(abi::LAMINAR_PROGRAM_GUARDED, is_guarded)?;
            object.set_wanted(abi::LAMINAR_PROGRAM, !is_guarded)?;
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
            Ok(is_guarded)
        };
        choose().map_err(failed("its features cannot be chosen"))
    }

    /// Configures it and loads it.
    pub fn load(
        &mut self,
        keyed_by_cpu: &CStr,
        settings: &Settings,
        features: u32,
        values: Option<&Values>,
    ) -> Result<(), LoadFailure> {
        let object = &mut self.object;
        object
            .resize_map(keyed_by_cpu, settings.cpu_slots)
            .map_err(failed("the map of CPUs cannot be resized"))?;
        object
            .resize_map(abi::LAMINAR_MAP_STEERING, settings.partitions)
            .map_err(failed("the steering table cannot be resized"))?;
        for (name, map) in settings.existing {
            object.reuse_map(name, map).map_err(failed("a map cannot be taken over"))?;
        }
        let fixed = settings_bytes(settings.partitions, features);
        let values = values.map_or(Vec::new(), |values| values.to_bytes().to_vec());
        for (data, bytes) in
            [(abi::LAMINAR_MAP_RODATA, &fixed[..]), (abi::LAMINAR_MAP_DATA, &values)]
        {
            if self.has_map(data) {
                let set = self.object.set_global_data(data, bytes);
                set.map_err(failed("the settings cannot be written"))?;
            }
        }
        self.object.load().map_err(|(error, log)| LoadFailure {
            verifier_log: VerifierLog::new(log),
            ..explain_load(error, settings)
        })?;
        for (map, bytes) in
            [(abi::LAMINAR_MAP_SETTINGS, &fixed[..]), (abi::LAMINAR_MAP_CONTROLS, &values)]
        {
            if self.has_map(map) {
                let set = self.object.map(map).and_then(|map| map.update(0, bytes));
                set.map_err(failed("the settings cannot be written"))?;
            }
        }
        Ok(())
    }

    /// A loaded map.
    pub fn map(&self, name: &CStr) -> io::Result<Map> {
        self.object.map(name)
    }

    /// A loaded program.
    pub fn program(&self, name: &CStr) -> io::Result<OwnedFd> {
        self.object.program(name)
    }

    /// What may change while it runs; the lists are filled.
    pub fn controls(
        &self,
        features: u32,
        values: Values,
        config: &XdpConfig,
    ) -> io::Result<XdpControls> {
        let in_data = self.has_map(abi::LAMINAR_MAP_DATA);
        let held_in = if in_data { abi::LAMINAR_MAP_DATA } else { abi::LAMINAR_MAP_CONTROLS };
        let has = |feature| features & feature != 0;
        let list = |name| match has(abi::LAMINAR_FEATURE_LISTS) {
            true => self.object.map(name).map(Some),
            false => Ok(None),
        };
        let (deny, allow) = (list(abi::LAMINAR_MAP_DENY)?, list(abi::LAMINAR_MAP_ALLOW)?);
        if let (Some(lists), Some(deny), Some(allow)) = (&config.source_lists, &deny, &allow) {
            lists.deny.iter().try_for_each(|prefix| controls::add(deny, prefix))?;
            lists.allow.iter().try_for_each(|prefix| controls::add(allow, prefix))?;
        }
        let samples = match has(abi::LAMINAR_FEATURE_SAMPLES) {
            true => Some(Mutex::new(Ring::new(&self.object.map(abi::LAMINAR_MAP_SAMPLES)?)?)),
            false => None,
        };
        Ok(XdpControls::new(Held {
            features,
            several_ports: !self.has_features() || has(abi::LAMINAR_FEATURE_PORTS),
            max_prefixes: config.max_prefixes,
            values: self.object.map(held_in)?,
            now: Mutex::new(values),
            deny,
            allow,
            samples,
        }))
    }
}

/// `struct laminar_settings` as it stands in memory.
fn settings_bytes(partitions: u32, features: u32) -> [u8; size_of::<abi::laminar_settings>()] {
    let mut bytes = [0; size_of::<abi::laminar_settings>()];
    for (at, value) in [
        (offset_of!(abi::laminar_settings, partitions), partitions),
        (offset_of!(abi::laminar_settings, features), features),
    ] {
        bytes[at..at + 4].copy_from_slice(&value.to_ne_bytes());
    }
    bytes
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
        Some(libc::ENOMEM) => {
            "there is no memory for it; lower max_sources, max_prefixes or partitions".into()
        }
        _ => "the kernel refused it".into(),
    };
    failed(&what)(error)
}
