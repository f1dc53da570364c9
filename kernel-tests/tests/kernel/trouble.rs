//! What can go wrong with ingest: a clear error, and nothing left behind.

use std::net::{Ipv6Addr, SocketAddr, UdpSocket};
use std::os::unix::net::UnixStream;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use laminar_xdp::{Ingest, IngestConfig, IngestMode, XdpConfig, XdpError};
use socket2::{Domain, Socket, Type};
use testbed::TestNet;
use testbed::frame::datagram;

use crate::support::{
    Arrivals, OWN, ObjectSet, PORT, capture_warnings, config, drain, keep_only, loopback, open,
    owner_of, receivers, sockets_only, tests, two_cpus,
};

tests! {
    Root:
        falling_back_is_a_mode,
        one_warning_says_why,
        a_port_that_is_taken,
        receive_buffers_that_are_too_small,
        a_receiver_that_does_not_answer,
        successors_that_do_not_fit;
    Namespaces:
        objects_that_cannot_be_trusted,
        more_sockets_than_files,
        moves_that_cannot_be;
}

fn falling_back_is_a_mode() -> Result<()> {
    let net = TestNet::new()?;
    let missing = config().interface("missing0");
    let ingest = open(&net.receiver, &missing.clone().build()?)?;
    let reason = ingest.mode().to_string();
    assert!(matches!(ingest.mode(), IngestMode::Sockets(XdpError::InterfaceNotFound { .. })));
    assert!(reason.starts_with("sockets alone: there is no interface \"missing0\""), "{reason}");
    assert_eq!(ingest.classic_reason(), None, "rights are there, so an object chooses");
    drop(ingest);

    let strict = missing.fallback_on_error(false).build()?;
    let error = open(&net.receiver, &strict).unwrap_err();
    assert!(matches!(error, XdpError::InterfaceNotFound { .. }), "{error}");
    // Nothing is left behind: the port is free.
    let off = config().enabled(false).fallback_on_error(false).build()?;
    let ingest = open(&net.receiver, &off)?;
    assert!(matches!(ingest.mode(), IngestMode::Sockets(XdpError::Disabled)));
    drop(ingest);

    // Without rights: sockets, and classic BPF.
    let ingest = net.receiver.enter(|| {
        keep_only(&[]);
        Ingest::open(&IngestConfig::new(two_cpus()), &config().build().unwrap())
    })?;
    assert!(matches!(ingest.mode(), IngestMode::Sockets(XdpError::MissingCapability { .. })));
    assert!(ingest.classic_reason().is_some());
    drop(ingest);

    // XDP that only filters.
    let one_way = config().force_target("linux-5.3");
    let generic = one_way.attach_mode(laminar_xdp::XdpAttachMode::Generic).build()?;
    let ingest = open(&net.receiver, &generic)?;
    assert!(matches!(ingest.mode(), IngestMode::FilterOnly(_)), "{}", ingest.mode());
    let sender = net.sending_socket()?;
    for key in 0..20u32 {
        sender.send_to(&datagram(key, b"hello"), TestNet::destination(PORT))?;
    }
    sender.send_to(b"junk", TestNet::destination(PORT))?;
    let seen = drain(&mut receivers(&ingest)?)?;
    assert_eq!(seen.len(), 20);
    assert!(seen.iter().all(|(core, partition, _)| *core == owner_of(*partition)));
    let verdicts = ingest.stats()?.verdicts;
    assert_eq!((verdicts.dropped, verdicts.passed_no_queue, verdicts.redirected), (1, 20, 0));
    Ok(())
}

/// Whatever keeps XDP away, and whether an object or classic BPF chooses then.
fn one_warning_says_why() -> Result<()> {
    let net = TestNet::new()?;
    let open = |config: XdpConfig, rights: bool| {
        net.receiver.enter(|| {
            if !rights {
                keep_only(&[]);
            }
            let mut to = IngestConfig::new(two_cpus());
            to.receive_buffer = 1 << 16; // which everybody may have
            let (ingest, warnings) = capture_warnings(|| Ingest::open(&to, &config));
            anyhow::Ok((ingest?.mode().to_string(), warnings))
        })
    };
    let missing = config().interface("missing0").build()?;
    let tampered = ObjectSet::new()?;
    tampered.write_manifest("")?;
    let untrusted = config().bpf_object_path(tampered.path("")).build()?;
    let objects = ObjectSet::without_sockets_object()?;
    let classic = config().bpf_object_path(objects.path("")).build()?;
    let off = config().enabled(false).build()?;
    let usual = config().build()?;
    for (config, rights, says) in [
        (missing, true, "there is no interface"),
        (untrusted, true, "manifest.toml"),
        (usual.clone(), false, "lacks CAP_BPF"),
        (off.clone(), true, ""),
        (off, false, ""),
    ] {
        let (mode, warnings) = open(config, rights)?;
        let expected = usize::from(!says.is_empty());
        ensure!(warnings.len() == expected, "{mode}: {warnings:#?}");
        ensure!(mode.contains(says) && warnings.iter().all(|w| w.contains(says)), "{warnings:#?}");
    }
    // With XDP at work what is missing behind it is worth one.
    let (_, warnings) = open(classic, true)?;
    ensure!(warnings.len() == 1 && warnings[0].contains("no object for sockets"), "{warnings:#?}");
    // Somebody else's program stays where it is.
    let other = crate::support::load(&net, &usual, &two_cpus())?;
    let (mode, warnings) = open(usual, true)?;
    let id = format!("id {}", other.program_id()?);
    ensure!(mode.contains(&id), "{mode}");
    ensure!(warnings.len() == 1 && warnings[0].contains(&id), "{warnings:#?}");
    Ok(())
}

/// Nothing of such a set is loaded, and nothing else in its place.
fn objects_that_cannot_be_trusted() -> Result<()> {
    let net = TestNet::new()?;
    let tampered = ObjectSet::new()?;
    tampered.write_manifest("")?;
    let config = config().bpf_object_path(tampered.path(""));
    for enabled in [true, false] {
        let ingest = open(&net.receiver, &config.clone().enabled(enabled).build()?)?;
        assert!(ingest.classic_reason().is_some(), "no embedded object instead");
        assert!(!net.carries_xdp()?);
        let mode = ingest.mode();
        let reason = matches!(mode, IngestMode::Sockets(XdpError::Artifact(_)));
        assert_eq!(reason, enabled, "{mode}");
    }
    let strict = config.fallback_on_error(false).build()?;
    let error = open(&net.receiver, &strict).unwrap_err();
    assert!(matches!(error, XdpError::Artifact(_)), "{error}");
    Ok(())
}

/// Whoever has it, with or without sharing it, is named; nothing is attached.
fn a_port_that_is_taken() -> Result<()> {
    let net = TestNet::new()?;
    let refused = || -> Result<()> {
        let error = open(&net.receiver, &config().build()?).unwrap_err();
        let text = error.to_string();
        let XdpError::PortTaken { holder: Some(holder), .. } = error else { panic!("{text}") };
        let (process, _) = holder.process.context("this process can be seen")?;
        assert_eq!(process, std::process::id(), "{text}");
        assert!(text.contains(&format!("taken by process {process} (")), "{text}");
        assert!(!net.carries_xdp()?);
        Ok(())
    };
    for shared in [false, true] {
        let theirs = net.receiver.enter(|| -> Result<Socket> {
            let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
            socket.set_reuse_port(shared)?;
            socket.bind(&"0.0.0.0:9999".parse::<SocketAddr>()?.into())?;
            Ok(socket)
        })?;
        refused()?;
        drop(theirs);
    }
    let ours = open(&net.receiver, &config().build()?)?;
    let error = open(&net.receiver, &config().build()?).unwrap_err();
    assert!(matches!(error, XdpError::PortTaken { .. }), "{error}");
    assert!(net.carries_xdp()?, "the first one goes on");
    drop(ours);
    open(&net.receiver, &config().build()?)?;
    Ok(())
}

/// The limit of files is reached somewhere between starting and the last socket.
fn more_sockets_than_files() -> Result<()> {
    let (log, folder) = (Arrivals::new()?, tempfile::TempDir::new()?);
    let namespace = loopback()?;
    let program = std::env::current_exe()?;
    for limit in 4..60 {
        let output = namespace.enter(|| {
            let script = format!("ulimit -n {limit} && exec \"$0\" \"$@\"");
            let mut command = Command::new("sh");
            command.args(["-c", &script]).arg(&program).args([OWN, "sockets"]);
            command.arg(log.path()).arg(folder.path().join("0")).output()
        })?;
        let said = String::from_utf8_lossy(&output.stderr);
        if said.contains("2 cores need as many sockets") {
            assert!(said.contains("ulimit -n"), "{said}");
            return Ok(());
        }
        ensure!(!output.status.success(), "it worked with {limit} files: {said}");
    }
    anyhow::bail!("no limit led to the error")
}

/// What the kernel grants is reported; what does not fit is counted.
fn receive_buffers_that_are_too_small() -> Result<()> {
    let net = TestNet::new()?;
    let limit: u32 = std::fs::read_to_string("/proc/sys/net/core/rmem_max")?.trim().parse()?;
    let mut to = IngestConfig::new(two_cpus());
    to.receive_buffer = limit + 4096;
    let config = sockets_only()?;
    let with_rights = net.receiver.enter(|| Ingest::open(&to, &config))?;
    assert_eq!(with_rights.receive_buffer()?, to.receive_buffer);
    drop(with_rights);
    let (without, warnings) = net.receiver.enter(|| {
        keep_only(&[]);
        capture_warnings(|| Ingest::open(&to, &config))
    });
    let without = without?;
    assert_eq!(without.receive_buffer()?, limit);
    assert!(warnings.len() == 1 && warnings[0].contains("net.core.rmem_max"), "{warnings:#?}");
    drop(without);

    for impossible in [0, u32::MAX] {
        to.receive_buffer = impossible;
        let error = net.receiver.enter(|| Ingest::open(&to, &config)).unwrap_err();
        assert!(matches!(error, XdpError::Config { field: "receive_buffer", .. }), "{error}");
    }
    to.receive_buffer = 4096;
    let ingest = net.receiver.enter(|| Ingest::open(&to, &config))?;
    let sender = net.sending_socket()?;
    for _ in 0..100 {
        sender.send_to(&datagram(0, b""), TestNet::destination(PORT))?;
        sender.send_to(b"junk", TestNet::destination(PORT))?;
    }
    let received = drain(&mut receivers(&ingest)?)?.len() as u64;
    let stats = ingest.stats()?;
    assert!(received > 0 && received < 100, "{received} fit into 4096 bytes");
    assert_eq!((stats.accepted, stats.overflowed), (Some(100), Some(100 - received)), "{stats:?}");
    assert_eq!(stats.verdicts.dropped_short, 100);
    Ok(())
}

fn moves_that_cannot_be() -> Result<()> {
    let namespace = loopback()?;
    let ingest = open(&namespace, &sockets_only()?)?;
    let [first, second] = two_cpus();
    let field = |partition, core| match ingest.move_partition(partition, core) {
        Err(XdpError::Config { field, .. }) => field,
        other => panic!("{other:?}"),
    };
    assert_eq!(field(64, first), "partition");
    assert_eq!(field(0, 100_000), "cpu");
    assert!(ingest.receiver(100_000).is_err());
    assert_eq!(ingest.owner(64), None);
    // Nobody reads: said at once, and nothing is changed.
    let error = ingest.move_partition(0, second).unwrap_err();
    assert!(matches!(error, XdpError::NotMoved { partition: 0, .. }), "{error}");
    assert_eq!(ingest.owner(0), Some(first));
    ingest.move_partition(0, first)?; // it is there
    let receiver = ingest.receiver(first)?;
    assert!(ingest.receiver(first).unwrap_err().to_string().contains("in use"));
    drop(receiver);
    ingest.receiver(first)?;
    Ok(())
}

/// The move ends with an error after a while; the datagrams are held, and the same call
/// goes on where it stopped.
fn a_receiver_that_does_not_answer() -> Result<()> {
    let namespace = loopback()?;
    let ingest = open(&namespace, &sockets_only()?)?;
    let [first, second] = two_cpus();
    let (mut old, mut new) = (ingest.receiver(first)?, ingest.receiver(second)?);
    let sender = namespace.enter(|| UdpSocket::bind("127.0.0.1:0"))?;
    let send = |text: &[u8]| sender.send_to(&datagram(0, text), "127.0.0.1:9999");
    send(b"before")?;
    let error = ingest.move_partition(0, second).unwrap_err();
    assert!(error.to_string().contains("has not handled"), "{error}");
    send(b"after")?;
    assert_eq!(drain(std::slice::from_mut(&mut new))?, [], "held back");
    assert_eq!(ingest.owner(0), Some(first));
    std::thread::scope(|scope| -> Result<()> {
        let again = scope.spawn(|| ingest.move_partition(0, second));
        let mut seen = Vec::new();
        while !again.is_finished() {
            seen.extend(drain(std::slice::from_mut(&mut old))?);
        }
        assert_eq!(seen, [(first, 0, b"before".to_vec())]);
        Ok(again.join().expect("no panic")?)
    })?;
    assert_eq!(ingest.owner(0), Some(second));
    assert_eq!(drain(&mut [old, new])?, [(second, 0, b"after".to_vec())]);
    Ok(())
}

/// The running process says why not, and goes on.
fn successors_that_do_not_fit() -> Result<()> {
    let namespace = loopback()?;
    let mut ingest = open(&namespace, &sockets_only()?)?;
    let to = IngestConfig::new(two_cpus());
    let meet = |ingest: &Ingest, config: &XdpConfig| -> (XdpError, XdpError) {
        let (here, there) = UnixStream::pair().unwrap();
        std::thread::scope(|scope| {
            let successor = scope.spawn(|| Ingest::take_over(&to, config, &there).unwrap_err());
            let refusal = ingest.offer(&here).unwrap_err();
            drop(here);
            (refusal, successor.join().unwrap())
        })
    };
    for other in [config().partitions(128), config().port(9998u16).partitions(64)] {
        let (here, there) = meet(&ingest, &other.enabled(false).build()?);
        assert!(here.to_string().contains("it wants"), "{here}");
        assert!(there.to_string().contains("the other process refuses: it wants"), "{there}");
    }
    // Its objects are not what their manifest says: it does not even begin.
    let tampered = ObjectSet::new()?;
    tampered.write_manifest("")?;
    let config = config().enabled(false).partitions(64).bpf_object_path(tampered.path(""));
    let (here, there) = meet(&ingest, &config.build()?);
    assert!(matches!(there, XdpError::Artifact(_)), "{there}");
    assert!(matches!(here, XdpError::HandOver { .. }), "{here}");

    // Somebody who speaks another language, or hangs up.
    for said in [&b"\0\0\0\x05hello"[..], b"\xff\xff\xff\xff", b""] {
        let (here, there) = UnixStream::pair()?;
        std::io::Write::write_all(&mut &there, said)?;
        drop(there);
        assert!(matches!(ingest.offer(&here), Err(XdpError::HandOver { .. })));
    }
    // Another user.
    let (here, _there) = std::thread::spawn(|| {
        // SAFETY: the system call itself, which concerns this thread only.
        unsafe { libc::syscall(libc::SYS_setresuid, 65_534, 65_534, 65_534) };
        UnixStream::pair()
    })
    .join()
    .expect("no panic")?;
    let error = ingest.offer(&here).unwrap_err();
    assert!(error.to_string().contains("belongs to user 65534"), "{error}");

    // Called off, and refused while somebody still reads.
    let config = sockets_only()?;
    let (here, there) = UnixStream::pair()?;
    let [first, second] = two_cpus();
    let both = [ingest.receiver(first)?, ingest.receiver(second)?];
    std::thread::scope(|scope| -> Result<()> {
        let successor = scope.spawn(|| Ingest::take_over(&to, &config, &there));
        let offer = ingest.offer(&here)?;
        assert!(matches!(ingest.move_partition(0, second), Err(XdpError::NotMoved { .. })));
        let error = ingest.hand_over(offer).unwrap_err();
        assert!(error.to_string().contains("is in use"), "{error}");
        drop(here);
        let error = successor.join().expect("no panic").unwrap_err();
        assert!(matches!(error, XdpError::HandOver { .. }), "{error}");
        Ok(())
    })?;
    // All that time it served.
    let sender = namespace.enter(|| UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)))?;
    for key in 0..10u32 {
        sender.send_to(&datagram(key, b""), (Ipv6Addr::LOCALHOST, PORT))?;
    }
    let mut both = both;
    assert_eq!(drain(&mut both)?.len(), 10);
    Ok(())
}
