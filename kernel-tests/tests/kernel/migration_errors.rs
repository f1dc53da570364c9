//! Moves of partitions that ingest refuses, and a move that times out.

use std::fs;
use std::net::UdpSocket;
use std::slice;

use anyhow::{Context, Result};
use laminar_xdp::{IngestConfig, XdpError};
use testbed::TestNet;
use testbed::frame::datagram;

use crate::runtime::ThreadPerCoreRuntime;
use crate::support::{
    config, drain, loopback, open, sockets_only, tests, two_cpus, with_cpu_offline,
};

tests! {
    Root:
        move_times_out_if_the_old_receiver_is_not_read_and_can_be_retried,
        move_is_refused_while_receive_packet_steering_is_on;
    Namespaces:
        move_is_refused_to_unknown_cpus_and_without_receivers;
    WholeMachine:
        move_is_refused_to_an_offline_cpu;
}

fn move_is_refused_to_unknown_cpus_and_without_receivers() -> Result<()> {
    let namespace = loopback()?;
    let ingest = open(&namespace, &sockets_only()?)?;
    let [first, second] = two_cpus();
    let refused = |partition, cpu| ingest.move_partition(partition, cpu).unwrap_err();
    assert!(matches!(refused(64, first), XdpError::UnknownPartition { partition: 64, .. }));
    assert!(matches!(refused(0, 100_000), XdpError::UnknownCpu { cpu: 100_000, .. }));
    assert!(ingest.receiver(100_000).is_err());
    assert_eq!(ingest.owner(64), None);
    // No receiver is in use, so no thread can complete the move. The partition keeps its owner.
    let error = ingest.move_partition(0, second).unwrap_err();
    assert!(matches!(error, XdpError::NotMoved { partition: 0, .. }), "{error}");
    assert_eq!(ingest.owner(0), Some(first));
    // A move to the current owner needs no receiver.
    ingest.move_partition(0, first)?;
    let receiver = ingest.receiver(first)?;
    assert!(matches!(ingest.receiver(first), Err(XdpError::ReceiverInUse { .. })));
    drop(receiver);
    ingest.receiver(first)?;
    Ok(())
}

/// Until a move completes, the new owner holds back the datagrams that it receives. After the
/// timeout, a second call of `move_partition` completes the move, or moves the partition back.
fn move_times_out_if_the_old_receiver_is_not_read_and_can_be_retried() -> Result<()> {
    for goes_back in [false, true] {
        let namespace = loopback()?;
        let ingest = open(&namespace, &sockets_only()?)?;
        let [first, second] = two_cpus();
        let (mut old, mut new) = (ingest.receiver(first)?, ingest.receiver(second)?);
        let sender = namespace.enter(|| UdpSocket::bind("127.0.0.1:0"))?;
        let send = |text: &[u8]| sender.send_to(&datagram(0, text), "127.0.0.1:9999");
        send(b"before")?;
        let error = ingest.move_partition(0, second).unwrap_err();
        assert!(error.to_string().contains("has not read"), "{error}");
        send(b"after")?;
        assert_eq!(drain(slice::from_mut(&mut new))?, [], "the new owner must hold it back");
        assert_eq!(ingest.owner(0), Some(first));
        let target = if goes_back { first } else { second };
        let mut received = Vec::new();
        std::thread::scope(|scope| -> Result<()> {
            let again = scope.spawn(|| ingest.move_partition(0, target));
            while !again.is_finished() {
                received.extend(drain(slice::from_mut(&mut old))?);
                received.extend(drain(slice::from_mut(&mut new))?);
            }
            Ok(again.join().expect("no panic")?)
        })?;
        assert_eq!(ingest.owner(0), Some(target));
        received.extend(drain(&mut [old, new])?);
        let texts: Vec<_> = received.iter().map(|(_, _, text)| &text[..]).collect();
        assert_eq!(texts, [&b"before"[..], b"after"], "{received:?}");
    }
    Ok(())
}

/// Starts a runtime whose handlers ignore the datagrams.
fn start(net: &TestNet) -> Result<ThreadPerCoreRuntime> {
    let (ingest, config) = (IngestConfig::new(two_cpus()), config().partitions(64).build()?);
    let start = || ThreadPerCoreRuntime::with_xdp(&ingest, &config, |_| Box::new(|_| {}));
    Ok(net.receiver.enter(start)?)
}

/// Receive packet steering (RPS) distributes packets to other CPUs after they have left XDP's
/// queues. Ingest therefore could not keep the packets in order during a move.
fn move_is_refused_while_receive_packet_steering_is_on() -> Result<()> {
    let net = TestNet::new()?;
    let runtime = start(&net)?;
    let [_, to] = two_cpus();
    net.receiver.enter(|| -> Result<()> {
        testbed::mount_own_sysfs()?;
        let mask = format!("/sys/class/net/{}/queues/rx-0/rps_cpus", TestNet::INTERFACE);
        fs::write(&mask, "3").context(mask.clone())?;
        let error = runtime.move_partition(0, to).unwrap_err();
        assert!(error.to_string().contains("receive packet steering"), "{error}");
        assert!(matches!(error, XdpError::NotMoved { .. }));
        fs::write(&mask, "0")?;
        runtime.move_partition(0, to)?;
        Ok(())
    })
}

fn move_is_refused_to_an_offline_cpu() -> Result<()> {
    let net = TestNet::new()?;
    let runtime = start(&net)?;
    let [_, to] = two_cpus();
    let error = with_cpu_offline(to, || runtime.move_partition(0, to).unwrap_err())?;
    assert!(error.to_string().contains("is offline"), "{error}");
    runtime.move_partition(0, to)?;
    Ok(())
}
