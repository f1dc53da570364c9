//! Decides from an object's manifest entry whether the object may be loaded on this machine.

use laminar_xdp_prebuilt::{ByteOrder, Feature, ObjectEntry, abi};

use crate::report::Support;

/// The reason why this library must not load the object on any kernel. `None` if the library may
/// load it.
pub fn with_library(entry: &ObjectEntry, forced_target: Option<&str>) -> Option<String> {
    if let Some(forced) = forced_target.filter(|forced| *forced != entry.target) {
        return Some(format!("target {forced} is forced"));
    }
    if entry.byte_order != ByteOrder::HOST {
        let (object, host) = (entry.byte_order, ByteOrder::HOST);
        return Some(format!("it is for {object} machines, this machine is {host}"));
    }
    if entry.abi_version != abi::LAMINAR_ABI_VERSION {
        let (object, library) = (entry.abi_version, abi::LAMINAR_ABI_VERSION);
        return Some(format!("it has ABI version {object}, this library has {library}"));
    }
    None
}

/// The reason why this kernel cannot run the object. `None` if the kernel can run it. `ask`
/// returns whether the kernel has a feature.
pub fn with_kernel(entry: &ObjectEntry, mut ask: impl FnMut(Feature) -> Support) -> Option<String> {
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
            Support::Unknown(error) => {
                Some(format!("{needs}, and the probe for it failed: {error}"))
            }
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

    /// Two objects, the better one first.
    fn two_objects() -> [ObjectEntry; 2] {
        let object = |target: &str, requires: &[Feature]| ObjectEntry {
            target: target.into(),
            requires: requires.iter().map(Feature::to_string).collect(),
            ..host_objects().remove(0)
        };
        let better = [Feature::Cpumap, Feature::GlobalData, Feature::CpumapProgram];
        [object("better", &better), object("baseline", &[Feature::Cpumap])]
    }

    fn first_accepted(mut ask: impl FnMut(Feature) -> Support) -> Option<String> {
        let accepted = two_objects().into_iter().find(|object| {
            let refused = with_kernel(object, &mut ask);
            refused.is_none()
        });
        accepted.map(|object| object.target)
    }

    fn no(_: Feature) -> Support {
        Support::No("EINVAL".into())
    }

    #[test]
    fn the_first_object_whose_features_exist_is_accepted() {
        for (newest, expected) in [
            (None, None),
            (Some(Feature::Cpumap), Some("baseline")),
            (Some(Feature::GlobalData), Some("baseline")),
            (Some(Feature::CpumapProgram), Some("better")),
            (Some(Feature::Frags), Some("better")),
        ] {
            let up_to = |feature| if Some(feature) <= newest { Support::Yes } else { no(feature) };
            assert_eq!(first_accepted(up_to).as_deref(), expected, "{newest:?}");
        }
    }

    #[test]
    fn one_missing_feature_is_enough_to_refuse() {
        let without = |gap| move |feature| if feature == gap { no(feature) } else { Support::Yes };
        for gap in [Feature::GlobalData, Feature::CpumapProgram] {
            assert_eq!(first_accepted(without(gap)).as_deref(), Some("baseline"), "{gap}");
        }
        assert_eq!(first_accepted(without(Feature::Cpumap)), None);
    }

    #[test]
    fn each_refusal_names_its_reason() {
        let yes = |_| Support::Yes;
        let object = &host_objects()[0];
        assert_eq!((with_library(object, None), with_kernel(object, yes)), (None, None));
        assert_eq!(with_library(object, Some(&object.target)), None);
        assert!(with_library(object, Some("another")).unwrap().contains("forced"));
        assert!(with_kernel(object, no).unwrap().contains("does not have: it answered EINVAL"));

        let mut other = object.clone();
        other.byte_order = match ByteOrder::HOST {
            ByteOrder::Bpfel => ByteOrder::Bpfeb,
            ByteOrder::Bpfeb => ByteOrder::Bpfel,
        };
        assert!(with_library(&other, None).unwrap().contains("machines"));

        let mut other = object.clone();
        other.abi_version += 1;
        assert!(with_library(&other, None).unwrap().contains("ABI version"));

        let mut other = object.clone();
        other.requires.push("telepathy".into());
        let reason = with_kernel(&other, yes).unwrap();
        assert!(reason.contains("\"telepathy\", which this library does not know"), "{reason}");

        let broken = |_| Support::Unknown("out of memory".into());
        assert!(with_kernel(object, broken).unwrap().contains("the probe for it failed"));
    }
}
