//! Which object in which mode: the best mode that the interface takes, and in it
//! the best object that the kernel loads.

use std::ffi::CStr;
use std::fs;
use std::os::fd::AsFd;

use laminar_xdp_prebuilt::Layer;

use crate::artifact::{Artifact, ArtifactObject};
use crate::config::{XdpAttachMode, XdpConfig};
use crate::error::XdpError;
use crate::kernel::attach::Attachment;
use crate::kernel::interface::Interface;
use crate::kernel::object::{self, LoadFailure, Loaded, Map};
use crate::kernel::parsed::Settings;
use crate::kernel::probe::Probes;
use crate::kernel::refusal::AttachFailure;
use crate::kernel::steering::Steering;
use crate::select::{self, AttachRefusal, Candidate, Outcome, Selection};

/// What stays the same from object to object.
pub struct Attempt<'a> {
    pub config: &'a XdpConfig,
    pub steering: &'a Steering,
    pub interface: &'a Interface,
    /// Maps that exist already and are to be used, by name.
    pub existing: &'a [(&'static CStr, &'a Map)],
    /// A program of ours at work, and whether it steers. It is replaced where it is, by one
    /// that does the same with its tables, which hold all they need.
    pub running: Option<(&'a Attachment, bool)>,
}

/// A loaded object that found its place.
pub struct Found {
    pub attachment: Attachment,
    pub loaded: Loaded,
    pub mode: XdpAttachMode,
    pub steers: bool,
}

/// An object on its way.
struct Trial {
    object: ArtifactObject,
    state: State,
    attach_errors: Vec<AttachRefusal>,
}

enum State {
    Untried,
    Loaded(Loaded),
    Settled(Outcome),
}

impl Attempt<'_> {
    /// Tries the objects in their order until one is attached, and says what became
    /// of each. Native mode with any object comes before generic mode with the best,
    /// and in each mode steering with any object before filtering with the best.
    pub fn try_all(&self, artifact: Artifact) -> Result<(Found, Selection), XdpError> {
        let forced = self.config.force_target.as_deref();
        let objects = artifact.objects.into_iter().filter(|object| object.layer() == Layer::Xdp);
        let mut trials: Vec<_> = objects.map(|object| Trial::new(object, forced)).collect();
        let mut probes = Probes::default();
        let mut errors = Vec::new();
        let mut found = None;
        for (mode, steers) in self.ways() {
            found = self.try_way(mode, steers, &mut trials, &mut probes, &mut errors)?;
            if found.is_some() {
                break;
            }
        }
        let selection = Selection {
            origin: artifact.origin,
            kernel: kernel_release(),
            features: probes.into_answers(),
            candidates: trials.into_iter().map(|t| self.conclude(t, found.as_ref())).collect(),
        };
        if let Some(found) = found {
            return Ok((found, selection));
        }
        // Where one mode was asked for, what the best object met there is the answer.
        let one_mode = self.config.attach_mode != XdpAttachMode::Auto && self.running.is_none();
        match errors.into_iter().next() {
            Some(error) if one_mode => Err(error),
            _ => Err(XdpError::NoUsableObject { selection: Box::new(selection) }),
        }
    }

    /// Modes, and whether to steer, best first. Explicit modes are tried alone.
    fn ways(&self) -> Vec<(XdpAttachMode, bool)> {
        use XdpAttachMode::{Generic, Native};
        if let Some((running, steers)) = self.running {
            return vec![(running.mode(), steers)];
        }
        match self.config.attach_mode {
            XdpAttachMode::Auto => {
                vec![(Native, true), (Generic, true), (Native, false), (Generic, false)]
            }
            Generic => vec![(Generic, true), (Generic, false)],
            _ => vec![(Native, true), (Native, false)],
        }
    }

    /// Tries the objects that steer, or those that do not, in one mode. An error ends
    /// everything.
    fn try_way(
        &self,
        mode: XdpAttachMode,
        steers: bool,
        trials: &mut [Trial],
        probes: &mut Probes,
        errors: &mut Vec<XdpError>,
    ) -> Result<Option<Found>, XdpError> {
        let mut refused = Vec::new();
        for trial in trials {
            if let State::Untried = trial.state {
                trial.state = self.load(&trial.object, probes)?;
            }
            let State::Loaded(loaded) = &trial.state else { continue };
            let (no_steering, nature) = (self.no_steering(mode, loaded), nature(mode, loaded));
            if steers != no_steering.is_none() || refused.contains(&nature) {
                continue;
            }
            let (error, ends_mode) = match self.attach(loaded, mode, steers) {
                Ok(attachment) => {
                    let picked = State::Settled(Outcome::Picked { mode, no_steering });
                    let State::Loaded(loaded) = std::mem::replace(&mut trial.state, picked) else {
                        continue;
                    };
                    return Ok(Some(Found { attachment, loaded, mode, steers }));
                }
                Err(AttachFailure::Final(error)) => return Err(error),
                Err(AttachFailure::ThisMode(error)) => (error, true),
                Err(AttachFailure::ThisObject(error)) => (error, false),
            };
            tracing::info!(object = %trial.object.file, %error, "not attached");
            trial.attach_errors.push(AttachRefusal { mode, reason: error.to_string() });
            errors.push(error);
            refused.push(nature);
            if ends_mode {
                break;
            }
        }
        Ok(None)
    }

    fn load(&self, object: &ArtifactObject, probes: &mut Probes) -> Result<State, XdpError> {
        if let Some(entry) = &object.entry
            && let Some(reason) = select::refusal(entry, |feature| probes.ask(feature))
        {
            return Ok(State::Settled(Outcome::Refused { reason }));
        }
        let settings = Settings {
            partitions: self.steering.partitions(),
            cpu_slots: self.steering.cpu_slots(),
            existing: self.existing,
        };
        match object::load(&object.bytes, &settings, self.config) {
            Ok(loaded) => Ok(State::Loaded(loaded)),
            Err(LoadFailure { reason, verifier_log }) => {
                Ok(State::Settled(Outcome::LoadFailed { reason, verifier_log }))
            }
        }
    }

    fn attach(
        &self,
        loaded: &Loaded,
        mode: XdpAttachMode,
        steers: bool,
    ) -> Result<Attachment, AttachFailure> {
        let Loaded { cpu_map, steering, program, .. } = loaded;
        if let Some((running, _)) = self.running {
            return running.replaced(program.as_fd(), steers);
        }
        // A queue first: before Linux 5.3 a packet for none is lost.
        if steers {
            let queues = self.steering.create_queues(cpu_map, self.config.cpu_queue_size);
            queues.map_err(AttachFailure::Final)?;
        }
        self.steering.write_all(steering, steers).map_err(AttachFailure::Final)?;
        Attachment::attach(self.interface, program.as_fd(), mode, steers)
    }

    /// Why an object filters without steering in a mode; `None` if it steers.
    fn no_steering(&self, mode: XdpAttachMode, loaded: &Loaded) -> Option<String> {
        let why = match mode {
            // Seen on 6.18: what it cannot build in one page, or is written by a thread
            // that may wait, it gives to generic mode's code without an Ethernet header's
            // length, and behind the CPU map IP drops it.
            XdpAttachMode::Native if self.interface.driver.as_deref() == Some("tun") => {
                "the driver of taps loses packets that are redirected in native mode"
            }
            XdpAttachMode::Native => return None,
            // Since Linux 6.9 (by its history; seen on 6.18) such a program gets
            // a copy of the packet in generic mode that has lost that length too.
            _ if loaded.multi_buffer => {
                "Linux from 6.9 on loses what multi-buffer programs redirect in generic mode"
            }
            // Before Linux 5.15 generic mode loses all that is redirected to a CPU map.
            // With the 8-byte values of 5.9 such kernels refuse to attach.
            _ if loaded.cpu_map.value_size() <= 4 => {
                "Linux before 5.15 loses what is redirected in generic mode, and this object \
                 cannot tell where it is"
            }
            _ => return None,
        };
        Some(why.into())
    }

    fn conclude(&self, trial: Trial, found: Option<&Found>) -> Candidate {
        let Trial { object, state, attach_errors } = trial;
        let steers_there = found.filter(|found| found.steers).map(|found| found.mode);
        let outcome = match state {
            State::Settled(outcome) => outcome,
            State::Untried => Outcome::NotNeeded,
            State::Loaded(loaded) => {
                match steers_there.and_then(|mode| self.no_steering(mode, &loaded)) {
                    Some(reason) => Outcome::PassedOver { reason },
                    None if found.is_some() && attach_errors.is_empty() => Outcome::NotNeeded,
                    None => Outcome::AttachFailed,
                }
            }
        };
        Candidate { file: object.file, outcome, attach_errors }
    }
}

impl Trial {
    fn new(object: ArtifactObject, forced_target: Option<&str>) -> Trial {
        let misfit = object.entry.as_ref().and_then(|entry| select::misfit(entry, forced_target));
        let state = match misfit {
            Some(reason) => State::Settled(Outcome::Refused { reason }),
            None => State::Untried,
        };
        Trial { object, state, attach_errors: Vec::new() }
    }
}

/// What an interface can tell apart about an object in a mode: one that is refused need
/// not be followed by its like, each of which may restart a network card's queues.
fn nature(mode: XdpAttachMode, loaded: &Loaded) -> (bool, bool) {
    let generic = mode == XdpAttachMode::Generic;
    (loaded.multi_buffer, generic && loaded.cpu_map.value_size() > 4)
}

fn kernel_release() -> String {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease");
    release.map_or_else(|_| "of unknown release".into(), |release| release.trim().into())
}
