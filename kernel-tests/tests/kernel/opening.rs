//! Opening ingest when its sockets cannot be opened as configured: the port is in use, the
//! limit of open files is too low, or the receive buffer is too large.

use std::fs;
use std::net::SocketAddr;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use laminar_xdp::{Ingest, IngestConfig, XdpError};
use socket2::{Domain, Socket, Type};
use tempfile::TempDir;
use testbed::TestNet;
use testbed::frame::datagram;

use crate::support::{
    Arrivals, OWN, PORT, capture_warnings, config, drain, keep_only, loopback, open, open_again,
    receivers, sockets_only, tests, two_cpus,
};

tests! {
    Root:
        second_ingest_is_refused_and_the_first_keeps_its_program,
        root_gets_a_receive_buffer_beyond_the_limit_of_the_system,
        datagrams_beyond_the_receive_buffer_are_counted;
    Namespaces:
        taken_port_is_reported_with_its_holder,
        too_few_files_for_the_sockets_is_reported,
        granted_receive_buffer_is_reported_with_one_warning,
        impossible_receive_buffers_are_refused,
        port_zero_takes_a_free_port;
}

/// The port counts as taken even if the socket that holds it allows sharing (SO_REUSEPORT). No
/// program is attached.
fn taken_port_is_reported_with_its_holder() -> Result<()> {
    for shared in [false, true] {
        let net = TestNet::new()?;
        let _other = net.receiver.enter(|| -> Result<Socket> {
            let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
            socket.set_reuse_port(shared)?;
            socket.bind(&"0.0.0.0:9999".parse::<SocketAddr>()?.into())?;
            Ok(socket)
        })?;
        let error = open(&net.receiver, &config().build()?).unwrap_err();
        let text = error.to_string();
        let XdpError::PortTaken { holder: Some(holder), .. } = error else { panic!("{text}") };
        let (process, _) = holder.process.context("the error does not name the process")?;
        assert_eq!(process, std::process::id(), "{text}");
        assert!(text.contains(&format!("in use by process {process} (")), "{text}");
        assert!(!net.carries_xdp()?);
    }
    Ok(())
}

fn second_ingest_is_refused_and_the_first_keeps_its_program() -> Result<()> {
    let net = TestNet::new()?;
    let config = config().build()?;
    let first = open(&net.receiver, &config)?;
    let error = open(&net.receiver, &config).unwrap_err();
    assert!(matches!(error, XdpError::PortTaken { .. }), "{error}");
    assert!(net.carries_xdp()?, "the first program is no longer attached");
    drop(first);
    drop(open_again(&net.receiver, &config)?);
    Ok(())
}

/// Raises the limit of open files step by step. At the last step, the files before the sockets can
/// be opened, and the sockets cannot.
fn too_few_files_for_the_sockets_is_reported() -> Result<()> {
    let (arrivals, folder) = (Arrivals::new()?, TempDir::new()?);
    let namespace = loopback()?;
    let program = std::env::current_exe()?;
    for limit in 4..60 {
        let output = namespace.enter(|| {
            let script = format!("ulimit -n {limit} && exec \"$0\" \"$@\"");
            let mut command = Command::new("sh");
            command.args(["-c", &script]).arg(&program).args([OWN, "sockets"]);
            command.arg(arrivals.path()).arg(folder.path().join("0")).output()
        })?;
        let printed = String::from_utf8_lossy(&output.stderr);
        if printed.contains("2 CPUs need a socket each") {
            assert!(printed.contains("ulimit -n"), "{printed}");
            return Ok(());
        }
        ensure!(!output.status.success(), "a limit of {limit} files was enough: {printed}");
    }
    bail!("no limit of open files led to the expected error")
}

/// The largest receive buffer, in bytes, that the kernel grants without CAP_NET_ADMIN.
fn receive_buffer_limit() -> Result<u32> {
    Ok(fs::read_to_string("/proc/sys/net/core/rmem_max")?.trim().parse()?)
}

fn root_gets_a_receive_buffer_beyond_the_limit_of_the_system() -> Result<()> {
    let namespace = loopback()?;
    let mut to = IngestConfig::new(two_cpus());
    to.receive_buffer = receive_buffer_limit()? + 4096;
    let config = sockets_only()?;
    let ingest = namespace.enter(|| Ingest::open(&to, &config))?;
    assert_eq!(ingest.receive_buffer()?, to.receive_buffer);
    Ok(())
}

fn granted_receive_buffer_is_reported_with_one_warning() -> Result<()> {
    let namespace = loopback()?;
    let limit = receive_buffer_limit()?;
    let mut to = IngestConfig::new(two_cpus());
    to.receive_buffer = limit + 4096;
    let config = sockets_only()?;
    let (ingest, warnings) = namespace.enter(|| {
        keep_only(&[]);
        capture_warnings(|| Ingest::open(&to, &config))
    });
    assert_eq!(ingest?.receive_buffer()?, limit);
    assert!(warnings.len() == 1 && warnings[0].contains("net.core.rmem_max"), "{warnings:#?}");
    Ok(())
}

fn impossible_receive_buffers_are_refused() -> Result<()> {
    let namespace = loopback()?;
    let mut to = IngestConfig::new(two_cpus());
    let config = sockets_only()?;
    for impossible in [0, u32::MAX] {
        to.receive_buffer = impossible;
        let error = namespace.enter(|| Ingest::open(&to, &config)).unwrap_err();
        assert!(
            matches!(error, XdpError::Config(ref error) if error.field() == "receive_buffer"),
            "{error}"
        );
    }
    Ok(())
}

/// Datagrams that do not fit into the receive buffer are counted as overflowed. Junk is dropped
/// before it reaches the buffer, so it takes no space there.
fn datagrams_beyond_the_receive_buffer_are_counted() -> Result<()> {
    let net = TestNet::new()?;
    let mut to = IngestConfig::new(two_cpus());
    to.receive_buffer = 4096;
    let config = sockets_only()?;
    let ingest = net.receiver.enter(|| Ingest::open(&to, &config))?;
    let sender = net.sending_socket()?;
    for _ in 0..100 {
        sender.send_to(&datagram(0, b""), TestNet::destination(PORT))?;
        sender.send_to(b"junk", TestNet::destination(PORT))?;
    }
    let received = drain(&mut receivers(&ingest)?)?.len() as u64;
    let stats = ingest.stats()?;
    assert!(received > 0 && received < 100, "{received} datagrams fit into 4096 bytes");
    assert_eq!((stats.accepted, stats.overflowed), (Some(100), Some(100 - received)), "{stats:?}");
    assert_eq!(stats.verdicts.dropped_short, 100);
    Ok(())
}

/// With port 0, the kernel chooses a free port, so an application's tests need no fixed port. XDP
/// must know the port in advance, so port 0 is allowed only without XDP.
fn port_zero_takes_a_free_port() -> Result<()> {
    let namespace = loopback()?;
    let config = config().enabled(false).port(0).build()?;
    let to = IngestConfig::new(two_cpus());
    let ingests = [(); 2].map(|()| namespace.enter(|| Ingest::open(&to, &config)));
    let [first, second] = ingests;
    let (first, second) = (first?, second?);
    assert_ne!(first.port()?, second.port()?);
    let sender = namespace.enter(|| std::net::UdpSocket::bind("127.0.0.1:0"))?;
    for ingest in [&first, &second] {
        let port = ingest.port()?;
        let mut receivers = receivers(ingest)?;
        // The sockets of both CPUs share the port.
        for key in 0..10 {
            sender.send_to(&datagram(key, b""), ("127.0.0.1", port))?;
        }
        assert_eq!(drain(&mut receivers)?.len(), 10);
    }
    Ok(())
}
