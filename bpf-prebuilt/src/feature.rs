//! The kernel features that an object can require.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

macro_rules! features {
    ($($(#[$doc:meta])* $feature:ident $name:literal $since:literal $what:literal;)*) => {
        /// A kernel feature that an object can require. The manifest lists features by name. A
        /// loader probes the running kernel for each feature, and never relies on the release that
        /// [`Feature::since`] returns.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum Feature {
            $($(#[$doc])* $feature,)*
        }

        impl Feature {
            /// Every feature, oldest first.
            pub const ALL: &[Feature] = &[$(Feature::$feature),*];

            /// The feature's name in manifests.
            pub fn name(self) -> &'static str {
                match self { $(Feature::$feature => $name,)* }
            }

            /// The first kernel release with the feature, for example `5.18`. This release informs
            /// human readers. A loader must probe for the feature, because distributions backport
            /// features.
            pub fn since(self) -> &'static str {
                match self { $(Feature::$feature => $since,)* }
            }

            /// A short description for messages.
            pub fn description(self) -> &'static str {
                match self { $(Feature::$feature => $what,)* }
            }
        }
    };
}

features! {
    /// CPU maps with 4-byte values.
    Cpumap "cpumap" "4.15" "CPU maps";
    /// Programs that select a socket of a group, and arrays of sockets.
    SkReuseport "sk_reuseport" "4.19" "programs that select a socket";
    /// Jumps that compare 32 bits, the main part of instruction set v3.
    Jmp32 "jmp32" "5.1" "32-bit jumps";
    /// Programs that address a map's value directly.
    GlobalData "global_data" "5.2" "constants in programs";
    /// A redirect to an empty map slot returns a verdict that the program chooses.
    RedirectVerdict "redirect_verdict" "5.3" "a verdict for CPUs without a queue";
    /// Ring buffers between programs and user space.
    Ringbuf "ringbuf" "5.8" "ring buffers";
    /// CPU maps with 8-byte values, which have room for a second-stage program.
    CpumapProgram "cpumap_program" "5.9" "CPU maps with programs";
    /// XDP programs for packets in several buffers.
    Frags "frags" "5.18" "packets in several buffers";
}

impl FromStr for Feature {
    type Err = UnknownFeature;

    fn from_str(name: &str) -> Result<Feature, UnknownFeature> {
        let named = Feature::ALL.iter().copied().find(|feature| feature.name() == name);
        named.ok_or_else(|| UnknownFeature(name.into()))
    }
}

impl fmt::Display for Feature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Serialize for Feature {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// The error if no feature has the given name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no kernel feature has the name {0:?}")]
pub struct UnknownFeature(pub String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_features_are_parsed() {
        for &feature in Feature::ALL {
            assert_eq!(feature.name().parse(), Ok(feature));
        }
        assert_eq!("Cpumap".parse::<Feature>(), Err(UnknownFeature("Cpumap".into())));
    }

    #[test]
    fn manifest_md_has_a_row_for_each_feature() {
        let text = include_str!("../MANIFEST.md");
        for &feature in Feature::ALL {
            let row = format!("| `{feature}` |");
            let line = text.lines().find(|line| line.starts_with(&row)).expect(&row);
            assert!(line.ends_with(&format!("| {} |", feature.since())), "{line}");
        }
    }
}
