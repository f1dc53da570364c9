//! Hand-overs that fail. One of the two processes reports the reason, and the running process
//! continues to receive.

use std::io::Write;
use std::net::{Ipv6Addr, UdpSocket};
use std::os::unix::net::UnixStream;

use anyhow::Result;
use laminar_xdp::{Ingest, IngestConfig, Receiver, XdpConfig, XdpError};
use testbed::Namespace;
use testbed::frame::datagram;

use crate::support::{
    ObjectSet, PORT, config, drain, loopback, open, receivers, sockets_only, tests, two_cpus,
};

tests! {
    Root:
        successor_of_another_user_is_refused;
    Namespaces:
        successor_with_another_configuration_is_refused,
        successor_with_tampered_objects_ends_the_handover,
        peer_with_another_protocol_is_refused,
        handover_while_a_receiver_is_in_use_is_refused;
}

/// Starts a successor with this configuration. The configuration must make the take-over fail.
/// Returns the error of the running process and the error of the successor.
fn refused_handover(ingest: &Ingest, config: &XdpConfig) -> Result<(XdpError, XdpError)> {
    let to = IngestConfig::new(two_cpus());
    let (here, there) = UnixStream::pair()?;
    Ok(std::thread::scope(|scope| {
        let successor = scope.spawn(|| Ingest::take_over(&to, config, &there).unwrap_err());
        let refusal = ingest.offer(&here).unwrap_err();
        drop(here);
        (refusal, successor.join().unwrap())
    }))
}

/// Sends datagrams and fails unless all of them arrive.
fn check_receivers(namespace: &Namespace, receivers: &mut [Receiver]) -> Result<()> {
    let sender = namespace.enter(|| UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)))?;
    for key in 0..10u32 {
        sender.send_to(&datagram(key, b""), (Ipv6Addr::LOCALHOST, PORT))?;
    }
    assert_eq!(drain(receivers)?.len(), 10);
    Ok(())
}

fn successor_with_another_configuration_is_refused() -> Result<()> {
    let namespace = loopback()?;
    let ingest = open(&namespace, &sockets_only()?)?;
    for other in [config().partitions(128), config().port(9998u16).partitions(64)] {
        let (here, there) = refused_handover(&ingest, &other.enabled(false).build()?)?;
        assert!(here.to_string().contains("the other process wants"), "{here}");
        assert!(
            there.to_string().contains("the other process refuses: the other process wants"),
            "{there}"
        );
    }
    check_receivers(&namespace, &mut receivers(&ingest)?)
}

/// The successor finds that its objects differ from their manifest. The successor closes the
/// connection before sending its first message.
fn successor_with_tampered_objects_ends_the_handover() -> Result<()> {
    let namespace = loopback()?;
    let ingest = open(&namespace, &sockets_only()?)?;
    let tampered = ObjectSet::new()?;
    tampered.write_manifest("")?;
    let config = config().enabled(false).partitions(64).bpf_object_path(tampered.path(""));
    let (here, there) = refused_handover(&ingest, &config.build()?)?;
    assert!(matches!(there, XdpError::Artifact(_)), "{there}");
    assert!(matches!(here, XdpError::HandOver { .. }), "{here}");
    check_receivers(&namespace, &mut receivers(&ingest)?)
}

fn peer_with_another_protocol_is_refused() -> Result<()> {
    let namespace = loopback()?;
    let ingest = open(&namespace, &sockets_only()?)?;
    // Send a message of another protocol, then an impossible length, then no message.
    for message in [&b"\0\0\0\x05hello"[..], b"\xff\xff\xff\xff", b""] {
        let (here, mut there) = UnixStream::pair()?;
        there.write_all(message)?;
        drop(there);
        assert!(matches!(ingest.offer(&here), Err(XdpError::HandOver { .. })));
    }
    check_receivers(&namespace, &mut receivers(&ingest)?)
}

fn successor_of_another_user_is_refused() -> Result<()> {
    let namespace = loopback()?;
    let ingest = open(&namespace, &sockets_only()?)?;
    let (here, _there) = std::thread::spawn(|| {
        // SAFETY: the raw system call has no precondition, and it changes the user of this thread
        // only.
        unsafe { libc::syscall(libc::SYS_setresuid, 65_534, 65_534, 65_534) };
        UnixStream::pair()
    })
    .join()
    .expect("no panic")?;
    let error = ingest.offer(&here).unwrap_err();
    assert!(error.to_string().contains("belongs to user 65534"), "{error}");
    check_receivers(&namespace, &mut receivers(&ingest)?)
}

/// The hand-over fails because one of the owner's receivers is in use. While the hand-over is on
/// offer, the owner refuses to move partitions.
fn handover_while_a_receiver_is_in_use_is_refused() -> Result<()> {
    let namespace = loopback()?;
    let config = sockets_only()?;
    let (ingest, to) = (open(&namespace, &config)?, IngestConfig::new(two_cpus()));
    let (here, there) = UnixStream::pair()?;
    let [_, second] = two_cpus();
    let mut in_use = receivers(&ingest)?;
    std::thread::scope(|scope| -> Result<()> {
        let successor = scope.spawn(|| Ingest::take_over(&to, &config, &there));
        let offer = ingest.offer(&here)?;
        assert!(matches!(ingest.move_partition(0, second), Err(XdpError::HandOverInProgress)));
        let failed = ingest.hand_over(offer).unwrap_err();
        assert!(failed.error.to_string().contains("is in use"), "{failed:?}");
        drop(here);
        let error = successor.join().expect("no panic").unwrap_err();
        assert!(matches!(error, XdpError::HandOver { .. }), "{error}");
        Ok(())
    })?;
    check_receivers(&namespace, &mut in_use)
}
