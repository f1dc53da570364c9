//! Which object the loader picks, and what it reports about the others.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use laminar_xdp::{Feature, Outcome, Support, XdpAttachMode, XdpError, XdpLoader};
use laminar_xdp_prebuilt::{ByteOrder, Layer, Manifest, embedded, sha256_hex};
use object::{Object, ObjectSection};
use testbed::{TestNet, kernel, seccomp};

use crate::support::{
    BASELINE, ObjectSet, best, best_in_generic_mode, config, load, object_of, online_cpus, picked,
    targets, tests,
};

tests! {
    Root:
        every_object_steers_on_its_kernels_and_is_refused_on_others,
        kernel_refuses_a_lone_object_that_is_too_new,
        each_mode_gets_the_best_object_for_it,
        jumbo_frames_make_the_loader_probe_every_feature,
        feature_is_unknown_if_the_probe_without_it_fails_too,
        object_that_needs_an_unproven_feature_is_refused,
        failed_load_is_reported_and_the_next_object_is_tried,
        forced_target_is_picked_or_refused_by_name,
        selection_can_be_printed_and_serialised;
}

/// The outcome of the object with this file name.
fn outcome<'a>(loader: &'a XdpLoader, file: &str) -> &'a Outcome {
    let mut candidates = loader.selection().candidates.iter();
    &candidates.find(|candidate| candidate.file == file).expect(file).outcome
}

/// The test forces each object in turn. If the kernel is too old for an object, the error names the
/// missing kernel feature.
fn every_object_steers_on_its_kernels_and_is_refused_on_others() -> Result<()> {
    let net = TestNet::new()?;
    let mut loaded = Vec::new();
    for entry in Manifest::parse(embedded::MANIFEST)?.objects {
        let mine = targets().contains(&&*entry.target);
        // The loader never tries objects of the other byte order; see the module `artifacts`.
        if entry.byte_order != ByteOrder::HOST || entry.layer != Layer::Xdp {
            continue;
        }
        match load(&net, &config().force_target(&entry.target).build()?, &online_cpus()) {
            Ok(loader) => {
                assert!(mine && loader.steers(), "{}", loader.selection());
                assert_eq!(picked(&loader), entry.file);
                loaded.push(entry.target);
            }
            Err(XdpError::NoUsableObject { selection }) => {
                assert!(!mine, "{selection}");
                let text = selection.to_string();
                assert!(text.contains("refused: it needs "), "{text}");
            }
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!(loaded, targets());
    Ok(())
}

/// Without a manifest, the loader does not know which kernel features the object needs. The loader
/// therefore probes no feature, and the kernel refuses the object.
fn kernel_refuses_a_lone_object_that_is_too_new() -> Result<()> {
    let (set, net) = (ObjectSet::new()?, TestNet::new()?);
    fs::remove_file(set.path(Manifest::FILE_NAME))?;
    let newest = object_of("linux-5.18");
    if kernel::has_multi_buffer() {
        assert_eq!(picked(&set.load(&net, &newest)?), newest);
        return Ok(());
    }
    let XdpError::NoUsableObject { selection } = set.load_error(&net, &newest) else { panic!() };
    assert!(matches!(selection.candidates[0].outcome, Outcome::LoadFailed { .. }), "{selection}");
    Ok(())
}

fn each_mode_gets_the_best_object_for_it() -> Result<()> {
    let net = TestNet::new()?;
    for (mode, expected) in [
        (XdpAttachMode::Auto, best()),
        (XdpAttachMode::Native, best()),
        (XdpAttachMode::Generic, best_in_generic_mode()),
    ] {
        let loader = load(&net, &config().attach_mode(mode).build()?, &online_cpus())?;
        assert_eq!(picked(&loader), expected, "{mode}: {}", loader.selection());
        let generic = mode == XdpAttachMode::Generic;
        assert_eq!(loader.mode() == XdpAttachMode::Generic, generic);
        assert_eq!(loader.steers(), !generic || kernel::generic_mode_redirects());
    }
    Ok(())
}

/// The loader first probes the features that the single-buffer objects need. With jumbo frames, the
/// loader also probes multi-buffer support.
fn jumbo_frames_make_the_loader_probe_every_feature() -> Result<()> {
    let net = TestNet::new()?;
    net.set_mtu(9000)?;
    let loader = load(&net, &config().build()?, &online_cpus())?;
    let answers = &loader.selection().features;
    let for_xdp = Feature::ALL.iter().copied().filter(|f| *f != Feature::SkReuseport);
    assert!(answers.iter().map(|answer| answer.feature).eq(for_xdp));
    match kernel::has_multi_buffer() {
        true => assert_eq!(picked(&loader), object_of("linux-5.18")),
        false => assert_eq!(loader.mode(), XdpAttachMode::Generic),
    }
    for answer in answers {
        let newest = answer.feature == Feature::Frags;
        match &answer.support {
            Support::Yes => assert!(!newest || kernel::has_multi_buffer()),
            Support::No(said) => {
                assert!(newest && !kernel::has_multi_buffer() && said == "EINVAL");
            }
            other => panic!("{}: {other}", answer.feature),
        }
    }
    Ok(())
}

/// EINVAL from a probe does not prove that the feature is missing. The loader therefore repeats the
/// probe without the feature. The loader concludes that the kernel lacks the feature only if the
/// second probe succeeds.
fn feature_is_unknown_if_the_probe_without_it_fails_too() -> Result<()> {
    const BPF_MAP_CREATE: u32 = 0;
    let net = TestNet::new()?;
    let error = net.receiver.enter(|| -> Result<XdpError> {
        seccomp::deny_bpf_command(BPF_MAP_CREATE, libc::EINVAL)?;
        Ok(XdpLoader::load_and_attach(&config().build()?, &online_cpus()).unwrap_err())
    })?;
    let XdpError::NoUsableObject { selection } = error else { panic!("{error}") };
    for answer in &selection.features {
        assert!(matches!(answer.support, Support::Unknown(_)), "{selection}");
    }
    assert!(selection.to_string().contains("the probe for it failed: Invalid argument"));
    Ok(())
}

/// The loader uses test runs to find out which verdict the kernel gives a redirect to an empty
/// queue. Without test runs, it refuses the objects that depend on this verdict.
fn object_that_needs_an_unproven_feature_is_refused() -> Result<()> {
    const BPF_PROG_TEST_RUN: u32 = 10;
    let net = TestNet::new()?;
    let loader = net.receiver.enter(|| -> Result<XdpLoader> {
        seccomp::deny_bpf_command(BPF_PROG_TEST_RUN, libc::EINVAL)?;
        Ok(XdpLoader::load_and_attach(&config().build()?, &online_cpus())?)
    })?;
    assert_eq!(picked(&loader), object_of(BASELINE));
    let text = loader.selection().to_string();
    let needs = "refused: it needs a verdict for CPUs without a queue (redirect_verdict, Linux 5.3), \
                 and the probe for it failed: Invalid argument";
    assert!(text.contains(needs), "{text}");
    Ok(())
}

/// Replaces the first instruction of an object's program with a read beyond the stack, so that the
/// verifier refuses the program. Returns the changed bytes of the file.
fn spoil_program(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = fs::read(path)?;
    let range = object::File::parse(&bytes[..])?
        .sections()
        .find(|section| section.name().is_ok_and(|name| name.starts_with("xdp")))
        .and_then(|section| section.file_range())
        .context("no section xdp")?;
    // The instruction `r0 = *(u64 *)(r10 + 8)`, which reads beyond the stack.
    let instruction = match ByteOrder::HOST {
        ByteOrder::Bpfel => [0x79, 0xa0, 8, 0, 0, 0, 0, 0],
        ByteOrder::Bpfeb => [0x79, 0x0a, 0, 8, 0, 0, 0, 0],
    };
    bytes[range.0 as usize..][..8].copy_from_slice(&instruction);
    fs::write(path, &bytes)?;
    Ok(bytes)
}

fn failed_load_is_reported_and_the_next_object_is_tried() -> Result<()> {
    let (set, net) = (ObjectSet::new()?, TestNet::new()?);
    let (best, next) = (best(), object_of(targets()[1]));
    let bytes = spoil_program(&set.path(&best))?;
    let mut manifest = set.manifest()?;
    let entry = manifest.objects.iter_mut().find(|object| object.file == best);
    entry.context("not listed")?.sha256 = sha256_hex(&bytes);
    set.write_manifest(&manifest.to_toml()?)?;

    let loader = set.load(&net, "")?;
    assert_eq!(picked(&loader), next);
    match outcome(&loader, &best) {
        Outcome::LoadFailed { verifier_log, .. } => {
            assert!(verifier_log.text().contains("r10"), "{verifier_log:#}");
        }
        other => panic!("{other:?}"),
    }
    drop(loader);

    // Without the manifest, the loader cannot try another object, so the error contains the
    // verifier log.
    fs::remove_file(set.path(Manifest::FILE_NAME))?;
    let error = set.load_error(&net, &best);
    assert!(matches!(&error, XdpError::NoUsableObject { .. }), "{error}");
    assert!(error.to_string().contains("invalid"), "{error}");
    Ok(())
}

fn forced_target_is_picked_or_refused_by_name() -> Result<()> {
    let net = TestNet::new()?;
    let force = |target: &str| load(&net, &config().force_target(target).build()?, &online_cpus());
    for &target in targets() {
        assert_eq!(picked(&force(target)?), object_of(target));
    }
    // The first target does not exist, and the second target has no XDP object.
    for target in ["linux-2.6", "linux-4.19"] {
        match force(target) {
            Err(XdpError::Config(error)) if error.field() == "force_target" => {
                assert!(error.problem().ends_with("\"linux-4.15\"]"), "{error}");
            }
            other => panic!("{other:?}"),
        }
    }
    Ok(())
}

fn selection_can_be_printed_and_serialised() -> Result<()> {
    let net = TestNet::new()?;
    let generic = config().attach_mode(XdpAttachMode::Generic).build()?;
    let loader = load(&net, &generic, &online_cpus())?;
    let selection = loader.selection();
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let text = selection.to_string();
    assert!(text.contains(&format!("Linux {}", release.trim())), "{text}");
    assert!(text.contains("32-bit jumps (jmp32)"), "{text}");
    let steers = if loader.steers() { "filters and steers" } else { "filters without steering: " };
    let line = format!("{}: picked, generic mode, {steers}", best_in_generic_mode());
    assert!(text.contains(&line), "{text}");

    let json = serde_json::to_value(selection)?;
    assert_eq!(json["kernel"], release.trim());
    let candidates = json["candidates"].as_array().context("no list")?;
    assert_eq!(candidates.len(), selection.candidates.len());
    let find = |outcome: &str| candidates.iter().find(|c| c["outcome"] == outcome);
    let picked = find("picked").context("none is picked")?;
    assert_eq!(picked["file"], best_in_generic_mode());
    assert_eq!(picked["mode"], "generic");
    assert_eq!(picked["no_steering"].is_null(), loader.steers());
    let refused = find("refused").context("none is refused")?;
    assert!(refused["reason"].as_str().is_some_and(|reason| reason.contains("machines")));
    let answers = json["features"].as_array().context("no list")?;
    assert_eq!(answers[0], serde_json::json!({ "feature": "cpumap", "answer": "yes" }));
    if !kernel::generic_mode_redirects() {
        let frags = answers.last().context("no answer")?;
        let no = serde_json::json!({ "feature": "frags", "answer": "no", "said": "EINVAL" });
        assert_eq!(*frags, no);
        let failed = find("attach_failed").context("none failed to attach")?;
        assert_eq!(failed["file"], object_of("linux-5.9"));
        assert_eq!(failed["attach_errors"][0]["mode"], "generic");
        assert!(text.contains("this kernel cannot steer in generic mode"), "{text}");
    }
    Ok(())
}
