//! Which object the loader picked, and why it did not pick the others.

use std::fmt;

use laminar_xdp_prebuilt::Feature;
use serde::Serialize;

use crate::config::XdpAttachMode;
use crate::report::VerifierLog;

/// Every object that the loader considered, best first, each with its result. A selection can be
/// printed and serialized.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Selection {
    /// Where the objects came from.
    pub origin: String,
    /// The release of the running kernel, as `uname -r` prints it. The release is information
    /// only: the loader decides by the probed features.
    pub kernel: String,
    /// The features that the loader probed, and the kernel's answers.
    pub features: Vec<FeatureAnswer>,
    /// The objects, best first.
    pub candidates: Vec<Candidate>,
}

/// The kernel's answer to the probe of one feature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct FeatureAnswer {
    /// The feature that the loader probed.
    pub feature: Feature,
    /// The kernel's answer.
    #[serde(flatten)]
    pub support: Support,
}

/// Whether the kernel has a feature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "answer", content = "said", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Support {
    /// The probe worked.
    Yes,
    /// The kernel refused the probe with exactly the error that means "unsupported".
    No(String),
    /// The probe failed for another reason, so it is unknown whether the kernel has the feature.
    Unknown(String),
}

/// One object and its outcome.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Candidate {
    /// The object's file name.
    pub file: String,
    /// The result of considering the object.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// The modes in which the object could not be attached, in the order of the attempts.
    pub attach_errors: Vec<AttachRefusal>,
}

/// Why an object could not be attached in one mode.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct AttachRefusal {
    /// Native or generic.
    pub mode: XdpAttachMode,
    /// The error with its causes.
    pub reason: String,
}

/// The result of considering an object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Outcome {
    /// The object is attached.
    Picked {
        /// The mode in which the object's program runs.
        mode: XdpAttachMode,
        /// Why the program filters without steering; `None` if the program steers.
        no_steering: Option<String>,
    },
    /// The loader did not try the object.
    Refused {
        /// What the object needs, and what the kernel or the configuration lacks.
        reason: String,
    },
    /// The kernel did not load the object.
    LoadFailed {
        /// The step that failed, and the error.
        reason: String,
        /// The verifier's log; empty if the load failed before the verifier ran.
        verifier_log: VerifierLog,
    },
    /// The object was loaded, but the interface refused it in every mode.
    AttachFailed,
    /// The object was loaded, but it cannot steer in the mode that was used. The loader picked
    /// another object, which can steer.
    PassedOver {
        /// Why the object cannot steer.
        reason: String,
    },
    /// A better object was picked first.
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
            Support::Unknown(error) => write!(f, "unknown: the probe failed: {error}"),
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
                write!(f, "passed over, because it would not steer: {reason}")
            }
            Outcome::NotNeeded => f.write_str("not needed"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_lists_features_objects_and_attach_errors() {
        let outcome = Outcome::Picked { mode: XdpAttachMode::Generic, no_steering: None };
        let refusal = AttachRefusal { mode: XdpAttachMode::Native, reason: "no driver".into() };
        let failed = Outcome::LoadFailed {
            reason: "it is too large".into(),
            verifier_log: VerifierLog::new("line 1\nline 2"),
        };
        let selection = Selection {
            origin: "the folder".into(),
            kernel: "6.1.0".into(),
            features: vec![FeatureAnswer {
                feature: Feature::Frags,
                support: Support::No("EINVAL".into()),
            }],
            candidates: vec![
                Candidate { file: "b.o".into(), outcome: failed, attach_errors: Vec::new() },
                Candidate { file: "a.o".into(), outcome, attach_errors: vec![refusal] },
            ],
        };
        let text = selection.to_string();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "kernel:  Linux 6.1.0");
        assert!(lines[1].ends_with(" no (EINVAL)") && lines[1].contains("(frags)"), "{text}");
        assert_eq!(
            lines[2..],
            [
                "objects: the folder",
                "  b.o: failed to load: it is too large",
                "    line 1",
                "    line 2",
                "  a.o: picked, generic mode, filters and steers",
                "    no driver",
            ]
        );
    }

    #[test]
    fn an_outcome_serializes_with_its_name_beside_its_values() {
        let outcome = Outcome::Refused { reason: "no".into() };
        let candidate = Candidate { file: "a.o".into(), outcome, attach_errors: Vec::new() };
        let json = serde_json::to_string(&candidate).unwrap();
        assert_eq!(json, r#"{"file":"a.o","outcome":"refused","reason":"no","attach_errors":[]}"#);
    }
}
