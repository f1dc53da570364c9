//! Ingest on systems where XDP cannot run: ingest falls back to another mode, reports the reason,
//! and logs one warning.

use std::net::UdpSocket;

use anyhow::{Result, ensure};
use caps::Capability;
use laminar_xdp::{Ingest, IngestConfig, IngestMode, XdpAttachMode, XdpConfig, XdpError};
use testbed::TestNet;
use testbed::frame::datagram;

use crate::support::{
    ObjectSet, PORT, all_at_owners, capture_warnings, config, drain, keep_only, load, loopback,
    open, open_again, receivers, sockets_only, tests, two_cpus, wait_until,
};

tests! {
    Root:
        missing_interface_is_the_reason_for_sockets_alone,
        filtering_without_steering_is_a_mode_of_its_own,
        every_reason_against_xdp_is_one_warning,
        cap_bpf_is_enough_for_the_sockets_object;
    Namespaces:
        without_capabilities_classic_bpf_chooses_the_socket,
        without_capabilities_only_enabled_xdp_is_worth_a_warning,
        tampered_objects_are_not_loaded_or_replaced;
}

fn missing_interface_is_the_reason_for_sockets_alone() -> Result<()> {
    let net = TestNet::new()?;
    let missing = config().interface("missing0");
    let ingest = open(&net.receiver, &missing.clone().build()?)?;
    let reason = ingest.mode().to_string();
    assert!(matches!(ingest.mode(), IngestMode::Sockets(XdpError::InterfaceNotFound { .. })));
    assert!(reason.starts_with("sockets alone: there is no interface \"missing0\""), "{reason}");
    assert_eq!(ingest.classic_bpf_reason(), None, "root may load the object for sockets");
    drop(ingest);

    let strict = missing.fallback_on_error(false).build()?;
    let error = open_again(&net.receiver, &strict).unwrap_err();
    assert!(matches!(error, XdpError::InterfaceNotFound { .. }), "{error}");
    // The failed start has closed its sockets, so the port is free.
    let off = config().enabled(false).fallback_on_error(false).build()?;
    let ingest = open_again(&net.receiver, &off)?;
    assert!(matches!(ingest.mode(), IngestMode::Sockets(XdpError::Disabled)));
    Ok(())
}

fn without_capabilities_classic_bpf_chooses_the_socket() -> Result<()> {
    let net = TestNet::new()?;
    let config = config().build()?;
    let ingest = net.receiver.enter(|| {
        keep_only(&[]);
        Ingest::open(&IngestConfig::new(two_cpus()), &config)
    })?;
    assert!(matches!(ingest.mode(), IngestMode::Sockets(XdpError::MissingCapability { .. })));
    assert!(ingest.classic_bpf_reason().is_some());
    Ok(())
}

fn filtering_without_steering_is_a_mode_of_its_own() -> Result<()> {
    let net = TestNet::new()?;
    let generic = config().force_target("linux-5.3").attach_mode(XdpAttachMode::Generic);
    let ingest = open(&net.receiver, &generic.build()?)?;
    assert!(matches!(ingest.mode(), IngestMode::FilterOnly(_)), "{}", ingest.mode());
    let sender = net.sending_socket()?;
    for key in 0..20u32 {
        sender.send_to(&datagram(key, b"hello"), TestNet::destination(PORT))?;
    }
    sender.send_to(b"junk", TestNet::destination(PORT))?;
    let received = drain(&mut receivers(&ingest)?)?;
    assert_eq!(received.len(), 20);
    assert!(all_at_owners(&received));
    let verdicts = ingest.stats()?.verdicts;
    assert_eq!((verdicts.dropped, verdicts.passed_no_queue, verdicts.redirected), (1, 20, 0));
    Ok(())
}

/// Runs `restrict` and then opens ingest on the same thread. Returns the mode and the warnings.
fn open_with_warnings(
    net: &TestNet,
    config: &XdpConfig,
    restrict: fn(),
) -> Result<(String, Vec<String>)> {
    net.receiver.enter(|| {
        restrict();
        let mut to = IngestConfig::new(two_cpus());
        // Request a receive buffer that the kernel grants to every user. A larger buffer could
        // cause a second warning.
        to.receive_buffer = 1 << 16;
        let (ingest, warnings) = capture_warnings(|| Ingest::open(&to, config));
        Ok((ingest?.mode().to_string(), warnings))
    })
}

/// Fails unless there is exactly one warning and both the mode and the warning contain
/// `reason`. If `reason` is empty, fails if there is any warning.
fn check_warning(net: &TestNet, config: &XdpConfig, restrict: fn(), reason: &str) -> Result<()> {
    let (mode, warnings) = open_with_warnings(net, config, restrict)?;
    let expected = usize::from(!reason.is_empty());
    ensure!(warnings.len() == expected, "{mode}: {warnings:#?}");
    let everywhere = mode.contains(reason) && warnings.iter().all(|w| w.contains(reason));
    ensure!(everywhere, "{mode}: {warnings:#?}");
    Ok(())
}

fn every_reason_against_xdp_is_one_warning() -> Result<()> {
    let tampered = ObjectSet::new()?;
    tampered.write_manifest("")?;
    let untrusted = config().bpf_object_path(tampered.path(""));
    for (config, reason) in [
        (config().interface("missing0"), "there is no interface"),
        (untrusted, "manifest.toml"),
        (config().enabled(false), ""),
    ] {
        check_warning(&TestNet::new()?, &config.build()?, || {}, reason)?;
    }
    // XDP runs, but the set has no object for sockets.
    let objects = ObjectSet::without_sockets_object()?;
    let classic = config().bpf_object_path(objects.path("")).build()?;
    let (_, warnings) = open_with_warnings(&TestNet::new()?, &classic, || {})?;
    ensure!(warnings.len() == 1 && warnings[0].contains("no object for sockets"), "{warnings:#?}");
    // Another program is already attached and stays attached.
    let (net, config) = (TestNet::new()?, config().build()?);
    let other = load(&net, &config, &two_cpus())?;
    check_warning(&net, &config, || {}, &format!("id {}", other.program_id()?))
}

fn without_capabilities_only_enabled_xdp_is_worth_a_warning() -> Result<()> {
    for (config, reason) in [(config(), "lacks CAP_BPF"), (config().enabled(false), "")] {
        check_warning(&TestNet::new()?, &config.build()?, || keep_only(&[]), reason)?;
    }
    Ok(())
}

/// If the set is tampered with, ingest loads neither the objects of the set nor the embedded
/// objects.
fn tampered_objects_are_not_loaded_or_replaced() -> Result<()> {
    let tampered = ObjectSet::new()?;
    tampered.write_manifest("")?;
    let config = config().bpf_object_path(tampered.path(""));
    for enabled in [true, false] {
        let net = TestNet::new()?;
        let ingest = open(&net.receiver, &config.clone().enabled(enabled).build()?)?;
        assert!(ingest.classic_bpf_reason().is_some(), "an object for sockets was loaded");
        assert!(!net.carries_xdp()?);
        let mode = ingest.mode();
        let reason = matches!(mode, IngestMode::Sockets(XdpError::Artifact(_)));
        assert_eq!(reason, enabled, "{mode}");
    }
    let strict = config.fallback_on_error(false).build()?;
    let error = open(&loopback()?, &strict).unwrap_err();
    assert!(matches!(error, XdpError::Artifact(_)), "{error}");
    Ok(())
}

/// With CAP_BPF alone, the object for sockets chooses the socket, filters and counts.
fn cap_bpf_is_enough_for_the_sockets_object() -> Result<()> {
    let (namespace, config) = (loopback()?, sockets_only()?);
    let ingest = namespace.enter(|| {
        keep_only(&[Capability::CAP_BPF]);
        Ingest::open(&IngestConfig::new(two_cpus()), &config)
    })?;
    assert_eq!(ingest.classic_bpf_reason(), None);
    let sender = namespace.enter(|| UdpSocket::bind("127.0.0.1:0"))?;
    sender.send_to(b"junk", ("127.0.0.1", PORT))?;
    let is_counted = wait_until(|| Ok(ingest.stats()?.verdicts.dropped_short >= 1))?;
    ensure!(is_counted, "the dropped datagram is not counted");
    Ok(())
}
