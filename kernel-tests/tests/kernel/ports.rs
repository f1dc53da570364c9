//! Several ports: configuring them before loading, and changing them afterwards.

use anyhow::Result;
use laminar_xdp::XdpError;
use testbed::frame::{self, datagram};
use testbed::{TestNet, bpf};

use crate::support::{
    DROP, PASS, REDIRECT, config, load, online_cpus, program_of, targets, targets_with_features,
    tests,
};

tests! {
    Root:
        sixteen_ports_and_no_others_are_filtered,
        ports_can_change_after_loading,
        one_port_can_be_added_and_removed,
        program_loaded_for_one_port_may_refuse_a_second_port;
}

/// The verdicts on junk and on a valid datagram, in this order.
fn verdicts(program: &std::os::fd::OwnedFd, port: u16) -> Result<(u32, u32)> {
    let junk = bpf::run(program, &frame::udp(port, b"junk"), 1)?;
    let valid = bpf::run(program, &frame::udp(port, &datagram(7, b"hello")), 1)?;
    Ok((junk.verdict, valid.verdict))
}

fn sixteen_ports_and_no_others_are_filtered() -> Result<()> {
    // The bytes of the last two ports are the same in opposite order, so a mistake in the byte
    // order shows.
    let ports: Vec<u16> = (0..14).map(|i| 1000 + 7 * i).chain([0x0102, 0x0201]).collect();
    for target in targets() {
        let net = TestNet::new()?;
        let config = config().force_target(*target).port(ports[0]).more_ports(ports[1..].to_vec());
        let loader = load(&net, &config.build()?, &online_cpus())?;
        let program = program_of(&loader)?;
        assert_eq!(loader.controls().ports()?, ports);
        for &port in &ports {
            assert_eq!(verdicts(&program, port)?, (DROP, REDIRECT), "{target}: {port}");
        }
        for port in ports.iter().flat_map(|port| [port ^ 1, port.swap_bytes()]).chain([9999]) {
            let ours = ports.contains(&port);
            let expected = if ours { (DROP, REDIRECT) } else { (PASS, PASS) };
            assert_eq!(verdicts(&program, port)?, expected, "{target}: {port}");
        }
        let stats = loader.stats()?;
        assert_eq!(stats.dropped_short, stats.redirected);
    }
    Ok(())
}

fn ports_can_change_after_loading() -> Result<()> {
    for target in targets() {
        let net = TestNet::new()?;
        let config = config().force_target(*target).more_ports([1000]).build()?;
        let loader = load(&net, &config, &online_cpus())?;
        let (program, controls) = (program_of(&loader)?, loader.controls());
        for ports in [&[1u16, 2, 65_535][..], &[9999], &[1000, 9999]] {
            controls.set_ports(ports)?;
            assert_eq!(controls.ports()?, ports);
            for port in [1, 2, 65_535, 9999, 1000, 3] {
                let ours = ports.contains(&port);
                let expected = if ours { (DROP, REDIRECT) } else { (PASS, PASS) };
                assert_eq!(verdicts(&program, port)?, expected, "{target}: {port} of {ports:?}");
            }
        }
        for bad in [&[][..], &[0], &[5, 5], &(1..=17).collect::<Vec<_>>()] {
            let error = controls.set_ports(bad).expect_err("bad ports");
            assert!(
                matches!(error, XdpError::Config(ref error) if error.field() == "ports"),
                "{error}"
            );
        }
        assert_eq!(controls.ports()?, [1000, 9999], "a refused call changed the ports");
    }
    Ok(())
}

fn one_port_can_be_added_and_removed() -> Result<()> {
    let net = TestNet::new()?;
    let config = config().port(9999).more_ports([1000]).build()?;
    let loader = load(&net, &config, &online_cpus())?;
    let (program, controls) = (program_of(&loader)?, loader.controls());
    controls.add_port(2000)?;
    assert_eq!(controls.ports()?, [9999, 1000, 2000]);
    assert_eq!(verdicts(&program, 2000)?, (DROP, REDIRECT));
    controls.remove_port(9999)?;
    assert_eq!(controls.ports()?, [1000, 2000]);
    assert_eq!(verdicts(&program, 9999)?, (PASS, PASS));
    assert_eq!(verdicts(&program, 2000)?, (DROP, REDIRECT), "port 2000 was lost when it moved up");
    for refused in [controls.add_port(1000), controls.add_port(0), controls.remove_port(9999)] {
        let error = refused.expect_err("a listed port, port 0, or an unlisted port");
        assert!(
            matches!(error, XdpError::Config(ref error) if error.field() == "ports"),
            "{error}"
        );
    }
    controls.remove_port(1000)?;
    assert!(controls.remove_port(2000).is_err(), "the last port was removed");
    assert_eq!(controls.ports()?, [2000]);
    Ok(())
}

fn program_loaded_for_one_port_may_refuse_a_second_port() -> Result<()> {
    for target in targets() {
        let net = TestNet::new()?;
        let loader = load(&net, &config().force_target(*target).build()?, &online_cpus())?;
        let program = program_of(&loader)?;
        loader.controls().set_ports(&[1234])?;
        assert_eq!(verdicts(&program, 1234)?, (DROP, REDIRECT), "{target}");
        assert_eq!(verdicts(&program, 9999)?, (PASS, PASS), "{target}");
        match loader.controls().set_ports(&[1234, 9999]) {
            // To save time on each packet, objects with features check several ports only if
            // several ports were configured when the object was loaded.
            Err(error) if targets_with_features().any(|with| with == *target) => {
                let one_port = matches!(error, XdpError::FeatureOff { feature: "more_ports" });
                assert!(one_port, "{error}");
                assert_eq!(verdicts(&program, 9999)?, (PASS, PASS), "{target}");
            }
            result => {
                result?;
                assert_eq!(verdicts(&program, 9999)?, (DROP, REDIRECT), "{target}");
            }
        }
    }
    Ok(())
}
