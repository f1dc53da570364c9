//! Which object in which mode: the best one that the kernel loads, in the best
//! mode that the interface takes.

use std::os::fd::AsFd;

use crate::artifact::{Artifact, ArtifactObject};
use crate::config::{XdpAttachMode, XdpConfig};
use crate::error::XdpError;
use crate::kernel::attach::{AttachFailure, Attachment, Interface};
use crate::kernel::object::{self, LoadFailure, Loaded, Settings};
use crate::kernel::probe;
use crate::kernel::steering::Steering;
use crate::select::{self, Candidate, Outcome, Selection};

/// What stays the same from object to object.
pub struct Attempt<'a> {
    pub config: &'a XdpConfig,
    pub steering: &'a Steering,
    pub interface: &'a Interface,
}

/// What became of one object.
enum Tried {
    Attached(Found),
    /// The interface does not take it in any mode; this is the first error.
    NotAttachable(XdpError),
    NotLoaded(Outcome),
}

/// A loaded object that found its place.
pub struct Found {
    pub attachment: Attachment,
    pub loaded: Loaded,
    pub mode: XdpAttachMode,
    pub steers: bool,
}

impl Attempt<'_> {
    /// Tries the objects in their order until one is attached, and says what became
    /// of each.
    pub fn try_all(&self, artifact: Artifact) -> Result<(Found, Selection), XdpError> {
        let mut selection = Selection { origin: artifact.origin, candidates: Vec::new() };
        let mut success = None;
        let mut attach_error = None;
        for object in artifact.objects {
            let outcome = match success {
                Some(_) => Outcome::NotNeeded,
                None => match self.try_object(&object)? {
                    Tried::Attached(found) => {
                        let outcome = Outcome::Picked { mode: found.mode, steers: found.steers };
                        success = Some(found);
                        outcome
                    }
                    Tried::NotAttachable(error) => {
                        let outcome = Outcome::AttachFailed(error.to_string());
                        attach_error.get_or_insert(error);
                        outcome
                    }
                    Tried::NotLoaded(outcome) => outcome,
                },
            };
            selection.candidates.push(Candidate { file: object.file, outcome });
        }
        match success {
            Some(found) => Ok((found, selection)),
            None => {
                let selection = Box::new(selection);
                Err(attach_error.unwrap_or(XdpError::NoUsableObject { selection }))
            }
        }
    }

    /// Tries one object in each mode. An error ends everything.
    fn try_object(&self, object: &ArtifactObject) -> Result<Tried, XdpError> {
        if let Some(entry) = &object.entry {
            let forced = self.config.force_target.as_deref();
            if let Some(refusal) = select::refusal(entry, forced, probe::feature) {
                return Ok(Tried::NotLoaded(Outcome::Refused(refusal)));
            }
        }
        let settings = Settings {
            port: self.config.port,
            partitions: self.steering.partitions(),
            cpu_slots: self.steering.cpu_slots(),
        };
        let loaded = match object::load(&object.bytes, &settings) {
            Ok(loaded) => loaded,
            Err(LoadFailure { reason, verifier_log }) => {
                return Ok(Tried::NotLoaded(Outcome::LoadFailed { reason, verifier_log }));
            }
        };
        self.steering.create_queues(&loaded.cpu_map, self.config.cpu_queue_size)?;

        match self.try_modes(&loaded) {
            Ok((attachment, mode, steers)) => {
                Ok(Tried::Attached(Found { attachment, loaded, mode, steers }))
            }
            Err(AttachFailure::ThisWay(error)) => Ok(Tried::NotAttachable(error)),
            Err(AttachFailure::Final(error)) => Err(error),
        }
    }

    /// Explicit modes are tried alone; auto is native, else generic, and if
    /// neither works the native one's error is the one to know.
    fn try_modes(&self, loaded: &Loaded) -> Result<Placed, AttachFailure> {
        let wanted = self.config.attach_mode;
        if wanted != XdpAttachMode::Auto {
            return self.try_mode(loaded, wanted);
        }
        match self.try_mode(loaded, XdpAttachMode::Native) {
            Err(AttachFailure::ThisWay(native)) => {
                tracing::info!(error = %native, "trying generic mode");
                match self.try_mode(loaded, XdpAttachMode::Generic) {
                    Err(AttachFailure::ThisWay(generic)) => {
                        tracing::info!(error = %generic, "generic mode does not work either");
                        Err(AttachFailure::ThisWay(native))
                    }
                    result => result,
                }
            }
            result => result,
        }
    }

    fn try_mode(&self, loaded: &Loaded, mode: XdpAttachMode) -> Result<Placed, AttachFailure> {
        let steers = can_steer(mode, loaded);
        match steers {
            true => self.steering.assign_all(&loaded.steering),
            false => self.steering.assign_none(&loaded.steering),
        }
        .map_err(AttachFailure::Final)?;
        let attachment = Attachment::attach(self.interface, loaded.program.as_fd(), mode)?;
        Ok((attachment, mode, steers))
    }
}

/// An attachment, its mode, and whether it steers.
type Placed = (Attachment, XdpAttachMode, bool);

/// Before Linux 5.15, generic mode loses what is redirected to a CPU map. With
/// the 8-byte values of 5.9 such kernels refuse to attach; with 4-byte ones they
/// do not, so those never steer in generic mode.
fn can_steer(mode: XdpAttachMode, loaded: &Loaded) -> bool {
    mode == XdpAttachMode::Native || loaded.cpu_map.value_size() > 4
}
