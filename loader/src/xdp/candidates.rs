//! Finds the best combination of mode and object: it tries the modes in order of preference,
//! and in each mode the objects in order of preference.

use std::fs;
use std::os::fd::AsFd;

use laminar_xdp_prebuilt::Layer;

use crate::artifact::{Artifact, ArtifactObject};
use crate::config::{XdpAttachMode, XdpConfig};
use crate::object::{
    KernelFeatures, LoadFailure, LoadedXdp, SharedMaps, Sizing, incompatibility, load_xdp, settings,
};
use crate::partitions::Partitions;
use crate::report::{self, AttachRefusal, Outcome, Selection, XdpError};
use crate::xdp::attach_error::AttachError;
use crate::xdp::attachment::Attachment;
use crate::xdp::interface::Interface;
use crate::xdp::running::RunningProgram;

/// The inputs of a search for the best object.
pub struct Candidates<'a> {
    pub config: &'a XdpConfig,
    pub partitions: &'a Partitions,
    pub interface: &'a Interface,
    pub shared: SharedMaps<'a>,
    /// The program of another process that the new program is to replace. If set, the search
    /// keeps that program's mode and maps. The maps already hold the owners and the queues.
    pub running: Option<&'a RunningProgram>,
}

/// One object, and the result of loading and attaching it so far.
struct Candidate {
    object: ArtifactObject,
    state: State,
    attach_errors: Vec<AttachRefusal>,
}

enum State {
    Untried,
    Loaded(LoadedXdp),
    Settled(Outcome),
}

/// A mode, and whether to steer in it.
#[derive(Clone, Copy)]
struct Way {
    mode: XdpAttachMode,
    steers: bool,
}

/// The result of attaching one object in one mode.
enum Attempt {
    Attached(Attachment),
    /// The next object may work in this mode.
    NextObject(XdpError),
    /// No object works in this mode.
    NextMode(XdpError),
}

impl Candidates<'_> {
    /// Attaches the first object that works, and reports the outcome of each object.
    ///
    /// In [`XdpAttachMode::Auto`] it first tries to steer in native mode, then to steer in
    /// generic mode, then to filter in native mode, then to filter in generic mode. In each of
    /// these ways it tries every object before it goes to the next way.
    pub fn attach_best(
        &self,
        artifact: Artifact,
        features: &mut KernelFeatures,
    ) -> Result<(RunningProgram, Selection), XdpError> {
        let forced = self.config.force_target.as_deref();
        let objects = artifact.objects.into_iter().filter(|object| object.layer() == Layer::Xdp);
        let mut candidates: Vec<_> = objects.map(|o| Candidate::new(o, forced)).collect();
        let mut errors = Vec::new();
        let mut running = None;
        for way in self.ways() {
            running = self.try_way(way, &mut candidates, features, &mut errors)?;
            if running.is_some() {
                break;
            }
        }
        let conclude = |candidate| self.conclude(candidate, running.as_ref());
        let selection = Selection {
            origin: artifact.origin,
            kernel: kernel_release(),
            features: features.answers(),
            candidates: candidates.into_iter().map(conclude).collect(),
        };
        if let Some(running) = running {
            return Ok((running, selection));
        }
        // If one mode is configured, the first error comes from the best object. That error tells
        // more than the whole selection.
        let one_mode = self.config.attach_mode != XdpAttachMode::Auto && self.running.is_none();
        match errors.into_iter().next() {
            Some(error) if one_mode => Err(error),
            _ => Err(XdpError::NoUsableObject { selection: Box::new(selection) }),
        }
    }

    /// The ways to try, best first. If a mode is configured, only that mode is tried.
    fn ways(&self) -> Vec<Way> {
        use XdpAttachMode::{Auto, Generic, Native};
        if let Some(running) = self.running {
            return vec![Way { mode: running.mode(), steers: running.steers }];
        }
        let ways = match self.config.attach_mode {
            Auto => vec![(Native, true), (Generic, true), (Native, false), (Generic, false)],
            Generic => vec![(Generic, true), (Generic, false)],
            _ => vec![(Native, true), (Native, false)],
        };
        ways.into_iter().map(|(mode, steers)| Way { mode, steers }).collect()
    }

    /// Tries every object that can work in this way. An error ends the whole search.
    fn try_way(
        &self,
        way: Way,
        candidates: &mut [Candidate],
        features: &mut KernelFeatures,
        errors: &mut Vec<XdpError>,
    ) -> Result<Option<RunningProgram>, XdpError> {
        let mut refused = Vec::new();
        for candidate in candidates {
            if let State::Untried = candidate.state {
                candidate.state = self.load(&candidate.object, features);
            }
            let State::Loaded(loaded) = &candidate.state else { continue };
            let no_steering = self.no_steering(way.mode, loaded);
            let traits = attach_traits(way.mode, loaded);
            if way.steers != no_steering.is_none() || refused.contains(&traits) {
                continue;
            }
            let (error, ends_mode) = match self.attach(loaded, way)? {
                Attempt::Attached(attachment) => {
                    let picked = Outcome::Picked { mode: way.mode, no_steering };
                    let state = std::mem::replace(&mut candidate.state, State::Settled(picked));
                    let State::Loaded(loaded) = state else { continue };
                    return Ok(Some(RunningProgram { attachment, loaded, steers: way.steers }));
                }
                Attempt::NextObject(error) => (error, false),
                Attempt::NextMode(error) => (error, true),
            };
            let reason = error.with_causes().to_string();
            tracing::info!(object = %candidate.object.file, reason, "cannot attach this object");
            candidate.attach_errors.push(AttachRefusal { mode: way.mode, reason });
            errors.push(error);
            refused.push(traits);
            if ends_mode {
                break;
            }
        }
        Ok(None)
    }

    fn load(&self, object: &ArtifactObject, features: &mut KernelFeatures) -> State {
        let unsupported = object
            .entry
            .as_ref()
            .and_then(|entry| incompatibility::with_kernel(entry, |feature| features.ask(feature)));
        if let Some(reason) = unsupported {
            return State::Settled(Outcome::Refused { reason });
        }
        let sizing = Sizing {
            settings: settings(self.config, self.partitions.count()),
            cpu_slots: self.partitions.cpu_slots(),
            shared: self.shared,
        };
        match load_xdp(&object.bytes, self.config, &sizing) {
            Ok(loaded) => State::Loaded(loaded),
            Err(LoadFailure { reason, verifier_log }) => {
                State::Settled(Outcome::LoadFailed { reason, verifier_log })
            }
        }
    }

    fn attach(&self, loaded: &LoadedXdp, way: Way) -> Result<Attempt, XdpError> {
        let program = loaded.program.as_fd();
        let attached = match self.running {
            Some(running) => running.attachment.replaced(program, way.steers),
            None => {
                // The queues are created first: before Linux 5.3 a packet for a CPU without a
                // queue is lost.
                if way.steers {
                    let queue_size = self.config.cpu_queue_size;
                    self.partitions.create_queues(&loaded.cpu_map, queue_size)?;
                }
                self.partitions.fill_table(&loaded.steering, way.steers)?;
                Attachment::attach(self.interface, program, way.mode, way.steers)
            }
        };
        match attached {
            Ok(attachment) => Ok(Attempt::Attached(attachment)),
            Err(AttachError::ThisObject(error)) => Ok(Attempt::NextObject(error)),
            Err(AttachError::ThisMode(error)) => Ok(Attempt::NextMode(error)),
            Err(AttachError::Final(error)) => Err(error),
        }
    }

    /// Why the object only filters in this mode; `None` if it can steer.
    fn no_steering(&self, mode: XdpAttachMode, loaded: &LoadedXdp) -> Option<String> {
        let reason = match mode {
            // Seen on 6.18: this driver handles a frame in its generic path if the frame does not
            // fit into one page, or if the thread that writes the frame may sleep. The generic
            // path does not set the length of the packet's Ethernet header, so IP drops the
            // packet after the CPU map.
            XdpAttachMode::Native if self.interface.driver.as_deref() == Some("tun") => {
                "the driver of taps loses packets that are redirected in native mode"
            }
            XdpAttachMode::Native => return None,
            // Since Linux 6.9 (from the kernel's history; seen on 6.18), generic mode gives a
            // multi-buffer program a copy of the packet. That copy lacks the length of the
            // Ethernet header as well.
            _ if loaded.multi_buffer => {
                "Linux from 6.9 on loses what multi-buffer programs redirect in generic mode"
            }
            // In generic mode, Linux before 5.15 loses every packet that a program redirects to a
            // CPU map. In that mode Linux 5.9 to 5.14 refuse a program whose CPU map has 8-byte
            // values, but accept a program whose CPU map has 4-byte values, and then lose its
            // packets.
            _ if loaded.cpu_map.value_size() <= 4 => {
                "Linux before 5.15 loses what is redirected in generic mode, and this object \
                 cannot tell on which Linux it runs"
            }
            _ => return None,
        };
        Some(reason.into())
    }

    fn conclude(
        &self,
        candidate: Candidate,
        running: Option<&RunningProgram>,
    ) -> report::Candidate {
        let Candidate { object, state, attach_errors } = candidate;
        let steering_mode = running.filter(|running| running.steers).map(RunningProgram::mode);
        let outcome = match state {
            State::Settled(outcome) => outcome,
            State::Untried => Outcome::NotNeeded,
            State::Loaded(loaded) => {
                match steering_mode.and_then(|mode| self.no_steering(mode, &loaded)) {
                    Some(reason) => Outcome::PassedOver { reason },
                    None if running.is_some() && attach_errors.is_empty() => Outcome::NotNeeded,
                    None => Outcome::AttachFailed,
                }
            }
        };
        report::Candidate { file: object.file, outcome, attach_errors }
    }
}

impl Candidate {
    fn new(object: ArtifactObject, forced_target: Option<&str>) -> Candidate {
        let entry = object.entry.as_ref();
        let reason = entry.and_then(|entry| incompatibility::with_library(entry, forced_target));
        let state = match reason {
            Some(reason) => State::Settled(Outcome::Refused { reason }),
            None => State::Untried,
        };
        Candidate { object, state, attach_errors: Vec::new() }
    }
}

/// Returns the properties for which an interface can refuse an object in this mode: whether the
/// object is multi-buffer, and in generic mode whether its CPU map has 8-byte values. After an
/// interface has refused an object, the search skips objects with equal properties, because each
/// attempt may restart the queues of a network card.
fn attach_traits(mode: XdpAttachMode, loaded: &LoadedXdp) -> (bool, bool) {
    let generic = mode == XdpAttachMode::Generic;
    (loaded.multi_buffer, generic && loaded.cpu_map.value_size() > 4)
}

fn kernel_release() -> String {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease");
    release.map_or_else(|_| "of unknown release".into(), |release| release.trim().into())
}
