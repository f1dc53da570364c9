//! Ingest in a network namespace, without a runtime: the test itself calls the receivers.

use std::time::{Duration, Instant};

use anyhow::Result;
use laminar_xdp::{Ingest, IngestConfig, Receiver, XdpConfig, XdpError};
use testbed::Namespace;

use super::arrivals::PARTITIONS;
use super::config::config;
use super::machine::two_cpus;

/// The default port of `XdpConfig`, which the tests do not change.
pub const PORT: u16 = 9999;

/// A network namespace with nothing but the loopback interface.
pub fn loopback() -> Result<Namespace> {
    let namespace = Namespace::new()?;
    namespace.enter(|| testbed::ip("link set dev lo up\n"))?;
    Ok(namespace)
}

/// A configuration without XDP.
pub fn sockets_only() -> Result<XdpConfig> {
    Ok(config().enabled(false).partitions(PARTITIONS as u32).build()?)
}

/// Opens ingest on two CPUs in a namespace.
pub fn open(namespace: &Namespace, config: &XdpConfig) -> Result<Ingest, XdpError> {
    namespace.enter(|| Ingest::open(&IngestConfig::new(two_cpus()), config))
}

/// Opens ingest after another ingest on the same port was closed, and waits up to five seconds
/// until the port is free. If another test starts a child process, the child has copies of all
/// descriptors until it calls exec. One of these copies can keep the port in use for a moment.
pub fn open_again(namespace: &Namespace, config: &XdpConfig) -> Result<Ingest, XdpError> {
    let begin = Instant::now();
    loop {
        match open(namespace, config) {
            Err(XdpError::PortTaken { .. }) if begin.elapsed() < Duration::from_secs(5) => {
                std::thread::sleep(Duration::from_millis(1));
            }
            result => return result,
        }
    }
}

/// The receivers of both CPUs.
pub fn receivers(ingest: &Ingest) -> Result<Vec<Receiver>> {
    Ok(two_cpus().into_iter().map(|cpu| ingest.receiver(cpu)).collect::<Result<_, _>>()?)
}

/// A received datagram: the CPU of its receiver, its partition, and its payload.
pub type Received = (u32, u32, Vec<u8>);

/// Receives until ten consecutive rounds over all receivers have returned no datagram.
pub fn drain(receivers: &mut [Receiver]) -> Result<Vec<Received>> {
    let (mut seen, mut idle) = (Vec::new(), 0);
    while idle < 10 {
        let before = seen.len();
        for receiver in &mut *receivers {
            let cpu = receiver.cpu();
            receiver.receive(Duration::from_millis(10), |datagram| {
                seen.push((cpu, datagram.partition, datagram.payload.to_vec()));
            })?;
        }
        idle = if seen.len() == before { idle + 1 } else { 0 };
    }
    Ok(seen)
}

/// Whether each datagram was received on the CPU that initially owns its partition.
pub fn all_at_owners(received: &[Received]) -> bool {
    received.iter().all(|(cpu, partition, _)| *cpu == owner_of(*partition))
}

/// The CPU that initially owns a partition.
pub fn owner_of(partition: u32) -> u32 {
    two_cpus()[partition as usize % 2]
}
