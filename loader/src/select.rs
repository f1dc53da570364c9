//! Which object was chosen, and why not the others: a value to print or to
//! serialise.

use std::fmt;

use laminar_xdp_prebuilt::{ByteOrder, Feature, ObjectEntry, abi};
use serde::Serialize;

use crate::config::XdpAttachMode;
use crate::error::VerifierLog;

/// Every object that was considered, best first, with what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Selection {
    /// Where the objects came from.
    pub origin: String,
    /// The running kernel's release, as `uname -r` prints it. For people:
    /// nothing is decided by it.
    pub kernel: String,
    /// What the kernel was asked for, and its answers.
    pub features: Vec<FeatureAnswer>,
    /// The objects, best first.
    pub candidates: Vec<Candidate>,
}

/// The kernel's answer about one feature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct FeatureAnswer {
    /// What it was asked for.
    pub feature: Feature,
    /// What it said.
    #[serde(flatten)]
    pub support: Support,
}

/// Whether the kernel has a feature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "answer", content = "said", rename_all = "snake_case")]
pub enum Support {
    /// It was tried, and it works.
    Yes,
    /// Exactly "unsupported", in the kernel's terms.
    No(String),
    /// The probe itself failed, which says nothing about the feature.
    Unknown(String),
}

/// One object and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Candidate {
    /// The object's file name.
    pub file: String,
    /// What became of it.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// The modes in which the interface did not take it.
    pub attach_errors: Vec<AttachRefusal>,
}

/// Why the interface did not take an object in one mode.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct AttachRefusal {
    /// Native or generic.
    pub mode: XdpAttachMode,
    /// The error.
    pub reason: String,
}

/// What became of an object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Outcome {
    /// It is attached.
    Picked {
        /// The mode it runs in.
        mode: XdpAttachMode,
        /// Why it filters without steering; `None` if it steers.
        no_steering: Option<String>,
    },
    /// It was not tried.
    Refused {
        /// What it needs and what the kernel, or the configuration, said to that.
        reason: String,
    },
    /// The kernel did not load it.
    LoadFailed {
        /// The step that failed and the error.
        reason: String,
        /// The verifier's words; empty if it did not come to that.
        verifier_log: VerifierLog,
    },
    /// It was loaded, but the interface took it in no mode.
    AttachFailed,
    /// It was loaded, but another one steers in the mode that is left.
    PassedOver {
        /// What it could not do.
        reason: String,
    },
    /// A better one was picked before.
    NotNeeded,
}

impl fmt::Display for Selection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "kernel:  Linux {}", self.kernel)?;
        for FeatureAnswer { feature, support } in &self.features {
            let what = format!("{} ({feature})", feature.description());
            write!(f, "\n  {what:<56} {support}")?;
        }
        write!(f, "\nobjects: {}", self.origin)?;
        for Candidate { file, outcome, attach_errors } in &self.candidates {
            write!(f, "\n  {file}: {outcome}")?;
            for AttachRefusal { reason, .. } in attach_errors {
                write!(f, "\n    {reason}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Support {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Support::Yes => f.write_str("yes"),
            Support::No(answer) => write!(f, "no ({answer})"),
            Support::Unknown(error) => write!(f, "cannot tell: {error}"),
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Picked { mode, no_steering: None } => {
                write!(f, "picked, {mode} mode, filters and steers")
            }
            Outcome::Picked { mode, no_steering: Some(reason) } => {
                write!(f, "picked, {mode} mode, filters without steering: {reason}")
            }
            Outcome::Refused { reason } => write!(f, "refused: {reason}"),
            Outcome::LoadFailed { reason, verifier_log } => {
                write!(f, "failed to load: {reason}")?;
                let log = verifier_log.to_string();
                log.lines().try_for_each(|line| write!(f, "\n    {line}"))
            }
            Outcome::AttachFailed => f.write_str("failed to attach"),
            Outcome::PassedOver { reason } => {
                write!(f, "passed over, it would not steer: {reason}")
            }
            Outcome::NotNeeded => f.write_str("not needed"),
        }
    }
}

/// Why the object must not be loaded, whatever the kernel; `None` if it may be.
pub(crate) fn misfit(entry: &ObjectEntry, forced_target: Option<&str>) -> Option<String> {
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
    None
}

/// Why the object must not be loaded on this kernel; `None` if it may be. `ask`
/// answers for a feature.
pub(crate) fn refusal(
    entry: &ObjectEntry,
    mut ask: impl FnMut(Feature) -> Support,
) -> Option<String> {
    entry.requires.iter().find_map(|name| {
        let Ok(feature) = name.parse::<Feature>() else {
            return Some(format!("it needs {name:?}, which this library does not know"));
        };
        let needs =
            format!("it needs {} ({feature}, Linux {})", feature.description(), feature.since());
        match ask(feature) {
            Support::Yes => None,
            Support::No(answer) => {
                Some(format!("{needs}, which this kernel does not have: it answered {answer}"))
            }
            Support::Unknown(error) => Some(format!("{needs}, and asking for it failed: {error}")),
        }
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

    fn first_accepted(mut ask: impl FnMut(Feature) -> Support) -> Option<String> {
        let objects = host_objects();
        let accepted = objects.iter().find(|object| refusal(object, &mut ask).is_none());
        accepted.map(|object| object.target.clone())
    }

    fn no(_: Feature) -> Support {
        Support::No("EINVAL".into())
    }

    #[test]
    fn the_best_object_that_the_kernel_can_run_is_accepted() {
        for (newest, expected) in [
            (None, None),
            (Some(Feature::Cpumap), Some("linux-4.15")),
            (Some(Feature::GlobalData), Some("linux-4.15")),
            (Some(Feature::RedirectVerdict), Some("linux-5.3")),
            (Some(Feature::CpumapProgram), Some("linux-5.9")),
            (Some(Feature::Frags), Some("linux-5.9")),
        ] {
            let up_to = |feature| if Some(feature) <= newest { Support::Yes } else { no(feature) };
            assert_eq!(first_accepted(up_to).as_deref(), expected, "{newest:?}");
        }
        // Not the number but what is missing decides.
        let without = |gap| move |feature| if feature == gap { no(feature) } else { Support::Yes };
        let expected = Some("linux-5.3".to_string());
        assert_eq!(first_accepted(without(Feature::CpumapProgram)), expected);
    }

    #[test]
    fn refusals_say_why() {
        let yes = |_| Support::Yes;
        let object = &host_objects()[0];
        assert_eq!((misfit(object, None), refusal(object, yes)), (None, None));
        assert_eq!(misfit(object, Some(&object.target)), None);
        assert!(misfit(object, Some("linux-4.15")).unwrap().contains("forced"));
        assert!(refusal(object, no).unwrap().contains("does not have: it answered EINVAL"));

        let mut other = object.clone();
        other.byte_order = match ByteOrder::HOST {
            ByteOrder::Bpfel => ByteOrder::Bpfeb,
            ByteOrder::Bpfeb => ByteOrder::Bpfel,
        };
        assert!(misfit(&other, None).unwrap().contains("machines"));

        let mut other = object.clone();
        other.abi_version += 1;
        assert!(misfit(&other, None).unwrap().contains("ABI version"));

        let mut other = object.clone();
        other.requires.push("telepathy".into());
        let reason = refusal(&other, yes).unwrap();
        assert!(reason.contains("\"telepathy\", which this library does not know"), "{reason}");

        let broken = |_| Support::Unknown("out of memory".into());
        assert!(refusal(object, broken).unwrap().contains("asking for it failed"));
    }
}
