//! Which object was chosen, and why not the others: a value to print.

use std::fmt;
use std::io;

use laminar_xdp_prebuilt::{ByteOrder, ObjectEntry, abi};

use crate::config::XdpAttachMode;
use crate::error::VerifierLog;

/// Every object that was considered, best first, with what became of it.
#[derive(Debug)]
#[non_exhaustive]
pub struct Selection {
    /// Where the objects came from.
    pub origin: String,
    /// The objects in the order in which they were considered.
    pub candidates: Vec<Candidate>,
}

/// One object and what became of it.
#[derive(Debug)]
#[non_exhaustive]
pub struct Candidate {
    /// The object's file name.
    pub file: String,
    /// What became of it.
    pub outcome: Outcome,
}

/// What became of an object.
#[derive(Debug)]
#[non_exhaustive]
pub enum Outcome {
    /// It is attached.
    Picked {
        /// The mode it runs in.
        mode: XdpAttachMode,
        /// Whether it steers, or only filters.
        steers: bool,
    },
    /// It was not tried, for this reason.
    Refused(String),
    /// The kernel did not load it.
    LoadFailed {
        /// The step that failed and the error.
        reason: String,
        /// The verifier's words; empty if it did not come to that.
        verifier_log: VerifierLog,
    },
    /// It was loaded, but the interface did not take it.
    AttachFailed(String),
    /// A better one was picked before.
    NotNeeded,
}

impl fmt::Display for Selection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "objects: {}", self.origin)?;
        for Candidate { file, outcome } in &self.candidates {
            write!(f, "\n  {file}: {outcome}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Picked { mode, steers: true } => write!(f, "picked, {mode} mode"),
            Outcome::Picked { mode, steers: false } => {
                write!(f, "picked, {mode} mode, filters without steering")
            }
            Outcome::Refused(reason) => write!(f, "refused: {reason}"),
            Outcome::LoadFailed { reason, verifier_log } => {
                write!(f, "failed to load: {reason}")?;
                let log = verifier_log.to_string();
                log.lines().try_for_each(|line| write!(f, "\n    {line}"))
            }
            Outcome::AttachFailed(reason) => write!(f, "failed to attach: {reason}"),
            Outcome::NotNeeded => f.write_str("not needed"),
        }
    }
}

/// What the kernel said to the probe of one feature.
#[derive(Debug)]
pub(crate) enum Support {
    Yes,
    /// Exactly "unsupported", in the kernel's terms.
    No(String),
    /// The probe itself failed, which says nothing about the feature.
    Unknown(io::Error),
}

/// Why the object must not be loaded on this kernel; `None` if it may be.
/// `probe` answers for a feature by name, or `None` if it knows no such feature.
pub(crate) fn refusal(
    entry: &ObjectEntry,
    forced_target: Option<&str>,
    mut probe: impl FnMut(&str) -> Option<Support>,
) -> Option<String> {
    if let Some(forced) = forced_target.filter(|forced| *forced != entry.target) {
        return Some(format!("target {forced} is forced"));
    }
    if entry.byte_order != ByteOrder::HOST {
        return Some(format!(
            "it is for {} machines, this is {}",
            entry.byte_order,
            ByteOrder::HOST
        ));
    }
    if entry.abi_version != abi::LAMINAR_ABI_VERSION {
        return Some(format!(
            "it has ABI version {}, this library {}",
            entry.abi_version,
            abi::LAMINAR_ABI_VERSION
        ));
    }
    entry.requires.iter().find_map(|feature| match probe(feature) {
        Some(Support::Yes) => None,
        Some(Support::No(answer)) => Some(format!(
            "it needs {feature} (Linux {} has it), and the kernel said: {answer}",
            entry.since
        )),
        Some(Support::Unknown(error)) => {
            Some(format!("it needs {feature}, and the probe for that failed: {error}"))
        }
        None => Some(format!("it needs {feature}, which this library does not know")),
    })
}

#[cfg(test)]
mod tests {
    use laminar_xdp_prebuilt::{Manifest, embedded};

    use super::*;

    fn host_objects() -> Vec<ObjectEntry> {
        let mut objects = Manifest::parse(embedded::MANIFEST).unwrap().objects;
        objects.retain(|object| object.byte_order == ByteOrder::HOST);
        objects
    }

    fn first_accepted(mut probe: impl FnMut(&str) -> Option<Support>) -> Option<String> {
        let objects = host_objects();
        let accepted = objects.iter().find(|object| refusal(object, None, &mut probe).is_none());
        accepted.map(|object| object.target.clone())
    }

    #[test]
    fn the_best_object_that_the_kernel_can_run_is_accepted() {
        assert_eq!(first_accepted(|_| Some(Support::Yes)).as_deref(), Some("linux-5.9"));
        let old = |feature: &str| {
            Some(match feature {
                "cpumap" => Support::Yes,
                _ => Support::No("EINVAL".into()),
            })
        };
        assert_eq!(first_accepted(old).as_deref(), Some("linux-4.15"));
        assert_eq!(first_accepted(|_| Some(Support::No("EINVAL".into()))), None);
        assert_eq!(first_accepted(|_| None), None, "unknown features are not waved through");
    }

    #[test]
    fn refusals_say_why() {
        let yes = |_: &str| Some(Support::Yes);
        let object = &host_objects()[0];
        assert_eq!(refusal(object, None, yes), None);
        assert!(refusal(object, Some("linux-4.15"), yes).unwrap().contains("forced"));

        let mut other = object.clone();
        other.byte_order = match ByteOrder::HOST {
            ByteOrder::Bpfel => ByteOrder::Bpfeb,
            ByteOrder::Bpfeb => ByteOrder::Bpfel,
        };
        assert!(refusal(&other, None, yes).unwrap().contains("machines"));

        let mut other = object.clone();
        other.abi_version += 1;
        assert!(refusal(&other, None, yes).unwrap().contains("ABI version"));

        let broken = |_: &str| Some(Support::Unknown(io::ErrorKind::OutOfMemory.into()));
        assert!(refusal(object, None, broken).unwrap().contains("probe for that failed"));
    }
}
