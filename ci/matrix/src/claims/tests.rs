use laminar_xdp_prebuilt::{ByteOrder, Layer};

use super::*;
use crate::executed::ExecutedObject;
use crate::kernels::Architecture;

/// Returns claims that hold. The targets are 4.15 and 5.9, and the kernel 5.10 executed both
/// objects. The range from 4.15 to before 5.9 is exempt.
pub fn claims() -> Claims {
    let object = |since: &str| ObjectEntry {
        file: format!("{since}.o"),
        sha256: since.into(),
        layer: Layer::Xdp,
        target: since.into(),
        byte_order: ByteOrder::Bpfel,
        abi_version: 1,
        since: since.into(),
        requires: vec![],
        compiler: String::new(),
        flags: vec![],
        license: String::new(),
        programs: vec![],
        maps: vec![],
    };
    let objects = vec![object("5.9"), object("4.15")];
    let executed = |object: &ObjectEntry| ExecutedObject {
        file: object.file.clone(),
        sha256: object.sha256.clone(),
        native: "steers".into(),
        generic: "refused".into(),
    };
    let kernel = ExecutedKernel {
        name: "5.10".into(),
        version: "5.10.262".into(),
        package: String::new(),
        architecture: "amd64".into(),
        checks: 1,
        objects: objects.iter().map(executed).collect(),
    };
    Claims {
        manifest: Manifest {
            format_version: 1,
            default_target: "5.9".into(),
            sources_sha256: String::new(),
            objects,
        },
        executed: Executed { gaps: vec![], kernels: vec![kernel] },
        unexecuted: vec![Unexecuted {
            from: "4.15".parse().unwrap(),
            before: "5.9".parse().unwrap(),
            byte_orders: vec![ByteOrder::Bpfel],
            reason: "not to be had".into(),
        }],
        stable: vec![],
    }
}

/// Adds a gap that was recorded with the current objects.
pub fn add_gap(claims: &mut Claims) {
    claims.executed.gaps.push(ExecutedGap {
        kernel: "newest of a-suite".into(),
        architecture: Architecture::Amd64,
        reason: "a-suite has no kernel for amd64 that can be booted".into(),
        objects_sha256: objects_digest(&claims.manifest),
    });
}

fn problems(change: impl FnOnce(&mut Claims)) -> String {
    let mut claims = claims();
    change(&mut claims);
    claims.problems().unwrap().join("\n")
}

#[test]
fn a_claim_that_is_executed_or_exempt_is_no_problem() {
    assert_eq!(problems(|_| {}), "");
}

#[test]
fn a_claim_that_no_kernel_executed_is_a_problem() {
    let other_bytes = problems(|claims| claims.manifest.objects[0].sha256 = "other".into());
    assert!(other_bytes.contains("5.9.o: these bytes were executed on no kernel from 5.9 on"));
    let not_exempt = problems(|claims| claims.unexecuted.clear());
    assert!(not_exempt.contains("4.15.o: these bytes were executed on no kernel from 4.15 to"));
    let other_order = vec![ByteOrder::Bpfeb];
    let other_exempt = problems(|claims| claims.unexecuted[0].byte_orders = other_order);
    assert!(other_exempt.contains("from 4.15 to before 5.9"));
    assert!(problems(|claims| claims.executed.kernels.clear()).contains("5.9.o: these bytes"));
    let older = problems(|claims| claims.executed.kernels[0].version = "5.8.1".into());
    assert!(older.contains("from 5.9 on") && older.contains("remove that entry"));
}

#[test]
fn an_object_that_the_kernel_refused_is_not_executed() {
    let refused = problems(|claims| {
        claims.executed.kernels[0].objects[0].native = "refused".into();
    });
    assert!(refused.contains("5.9.o: these bytes were executed on no kernel"), "{refused}");
}

#[test]
fn a_gap_of_the_last_run_excuses_a_claim_and_is_named() {
    let mut claims = claims();
    claims.executed.kernels.clear();
    add_gap(&mut claims);
    assert_eq!(claims.problems().unwrap(), [""; 0]);
    let excused = claims.excused().unwrap();
    assert_eq!(
        excused,
        [
            "gap: 5.9.o was executed on no kernel from 5.9 on: a-suite has no kernel for amd64 \
             that can be booted",
            "gap: 4.15.o was executed on no kernel from 5.9 on: a-suite has no kernel for amd64 \
             that can be booted",
        ]
    );
}

#[test]
fn a_gap_does_not_excuse_objects_that_changed_since() {
    let changed = problems(|claims| {
        add_gap(claims);
        claims.manifest.objects[0].sha256 = "other".into();
    });
    assert!(changed.contains("5.9.o: these bytes were executed on no kernel"), "{changed}");
}

#[test]
fn a_gap_does_not_excuse_a_range_that_has_a_stable_kernel() {
    let stable = |series: &str, architecture| Stable {
        series: series.parse().unwrap(),
        architecture,
        suite: String::new(),
    };
    let with = |stable| {
        problems(|claims| {
            claims.executed.kernels.clear();
            claims.stable.push(stable);
            add_gap(claims);
        })
    };
    let missing = with(stable("5.10", Architecture::Amd64));
    assert!(missing.contains("5.9.o: these bytes were executed on no kernel"), "{missing}");
    assert_eq!(with(stable("5.8", Architecture::Amd64)), "");
    assert_eq!(with(stable("5.10", Architecture::S390x)), "");
}

#[test]
fn a_gap_does_not_excuse_another_byte_order() {
    let other = problems(|claims| {
        claims.executed.kernels.clear();
        add_gap(claims);
        claims.executed.gaps[0].architecture = Architecture::S390x;
    });
    assert!(other.contains("5.9.o: these bytes were executed on no kernel"), "{other}");
}

#[test]
fn a_kernel_that_left_the_mirror_counts_while_the_bytes_are_the_same() {
    let mut claims = claims();
    claims.executed.kernels[0].name = "7.3".into();
    claims.executed.kernels[0].version = "7.3.4".into();
    add_gap(&mut claims);
    assert_eq!(claims.problems().unwrap(), [""; 0]);
    assert_eq!(claims.excused().unwrap(), [""; 0]);
}
