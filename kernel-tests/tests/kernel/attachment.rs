//! Attaching and detaching, and interfaces that already have a program.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use laminar_xdp::{XdpAttachMode, XdpError, XdpLoader};
use testbed::frame::datagram;
use testbed::{RxCpuSockets, TestNet, bpf};
use xshell::{Shell, cmd};

use crate::support::{
    BASELINE, HOLD, LOADER_CAPABILITIES, PASS, config, keep_only, load, object_of, online_cpus,
    prebuilt, targets, tests, wait_until,
};

tests! {
    Root:
        program_stays_attached_until_the_loader_is_dropped,
        detach_removes_the_program,
        inspect_shows_the_program_of_any_process,
        killed_process_leaves_no_program,
        second_loader_is_refused_and_the_first_keeps_filtering,
        program_of_another_owner_is_never_displaced,
        program_is_named_by_its_id_without_cap_sys_admin,
        our_object_attached_by_a_tool_is_not_displaced,
        documented_capabilities_are_enough;
}

fn inspect_shows_the_program_of_any_process() -> Result<()> {
    let net = TestNet::new()?;
    let attached =
        || net.receiver.enter(|| laminar_xdp::inspect::attached_programs(TestNet::INTERFACE));
    assert_eq!(attached()?, []);
    for mode in [XdpAttachMode::Native, XdpAttachMode::Generic] {
        let loader = load(&net, &config().attach_mode(mode).build()?, &online_cpus())?;
        let [program] = &attached()?[..] else { panic!("not one program") };
        assert_eq!((program.mode, program.identity.id), (mode, loader.program_id()?));
        assert_eq!(program.identity.name.as_deref(), Some("laminar_ingress"));
    }
    assert_eq!(attached()?, []);
    let missing = net.receiver.enter(|| laminar_xdp::inspect::attached_programs("missing0"));
    assert!(matches!(missing, Err(XdpError::InterfaceNotFound { .. })));
    Ok(())
}

fn program_stays_attached_until_the_loader_is_dropped() -> Result<()> {
    let net = TestNet::new()?;
    for _ in 0..3 {
        assert!(!net.carries_xdp()?);
        let loader = load(&net, &config().build()?, &online_cpus())?;
        assert!(net.carries_xdp()?, "the program is not attached after loading");
        assert!(loader.detaches_on_exit());
        let sender = net.sending_socket()?;
        sender.send_to(b"junk", TestNet::destination(9999))?;
        assert_eq!(loader.stats()?.dropped, 1);
        drop(loader);
        assert!(!net.carries_xdp()?, "the program is still attached after the loader is dropped");
    }
    Ok(())
}

fn detach_removes_the_program() -> Result<()> {
    let net = TestNet::new()?;
    load(&net, &config().build()?, &online_cpus())?.detach()?;
    assert!(!net.carries_xdp()?);
    Ok(())
}

fn killed_process_leaves_no_program() -> Result<()> {
    let net = TestNet::new()?;
    let mut holder = net.receiver.enter(|| {
        let mut holder = Command::new(std::env::current_exe()?);
        holder.arg(HOLD).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()
    })?;
    let mut line = String::new();
    BufReader::new(holder.stdout.take().context("no output")?).read_line(&mut line)?;
    let was_attached = net.carries_xdp()?;
    holder.kill()?; // SIGKILL
    holder.wait()?;
    ensure!(line.trim() == "attached" && was_attached, "the holder did not attach: {line}");

    ensure!(wait_until(|| Ok(!net.carries_xdp()?))?, "still attached 5 s after kill -9");
    // With the program gone, every datagram arrives, including junk that the program would drop.
    let rx_cpus = net.receiver.enter(|| RxCpuSockets::bind(TestNet::destination(9999)))?;
    let sender = net.sending_socket()?;
    sender.send_to(&datagram(1, b""), TestNet::destination(9999))?;
    sender.send_to(b"junk", TestNet::destination(9999))?;
    assert_eq!(rx_cpus.receive(2, |_, _| {})?, 2);
    drop(load(&net, &config().build()?, &online_cpus()).context("after the crash")?);
    Ok(())
}

fn second_loader_is_refused_and_the_first_keeps_filtering() -> Result<()> {
    let net = TestNet::new()?;
    let config = config().build()?;
    let first = load(&net, &config, &online_cpus())?;
    match load(&net, &config, &online_cpus()) {
        Err(XdpError::Busy { holder, .. }) => {
            assert_eq!(holder.id, first.program_id()?);
            assert_eq!(holder.name.as_deref(), Some("laminar_ingress"));
        }
        other => panic!("{other:?}"),
    }
    net.sending_socket()?.send_to(b"junk", TestNet::destination(9999))?;
    assert_eq!(first.stats()?.dropped, 1, "the first loader's program no longer filters");
    drop(first);
    drop(load(&net, &config, &online_cpus())?);
    Ok(())
}

fn program_of_another_owner_is_never_displaced() -> Result<()> {
    let net = TestNet::new()?;
    let theirs = bpf::empty_program(c"other_program", PASS)?;
    let link = net.receiver.enter(|| bpf::attach(&theirs, TestNet::INTERFACE))?;
    let before = net.show_interface()?;
    for mode in [XdpAttachMode::Auto, XdpAttachMode::Native, XdpAttachMode::Generic] {
        let error = load(&net, &config().attach_mode(mode).build()?, &online_cpus()).unwrap_err();
        let text = error.to_string();
        let XdpError::Busy { holder, .. } = error else { panic!("{error:?}") };
        assert_eq!(holder.name.as_deref(), Some("other_program"));
        assert!(text.contains("other_program") && text.contains(&holder.id.to_string()), "{text}");
    }
    assert_eq!(net.show_interface()?, before);
    drop(link);
    Ok(())
}

fn program_is_named_by_its_id_without_cap_sys_admin() -> Result<()> {
    let net = TestNet::new()?;
    let first = load(&net, &config().build()?, &online_cpus())?;
    let id = first.program_id()?;
    let error = net.receiver.enter(|| {
        keep_only(&LOADER_CAPABILITIES);
        XdpLoader::load_and_attach(&config().build().unwrap(), &online_cpus()).unwrap_err()
    });
    let text = error.to_string();
    assert!(text.contains(&format!("id {id}")) && text.contains("CAP_SYS_ADMIN"), "{text}");
    Ok(())
}

/// A tool attached this program, and the loader did not. The tool may still use the program, so the
/// loader must fail instead of replacing the program.
fn our_object_attached_by_a_tool_is_not_displaced() -> Result<()> {
    let net = TestNet::new()?;
    net.receiver.enter(|| -> Result<()> {
        let (shell, interface) = (Shell::new()?, TestNet::INTERFACE);
        let object = prebuilt().join(object_of(BASELINE));
        cmd!(shell, "ip link set dev {interface} xdpdrv obj {object} sec xdp").quiet().run()?;
        Ok(())
    })?;
    let before = net.show_interface()?;
    let error = load(&net, &config().build()?, &online_cpus()).unwrap_err();
    assert!(matches!(error, XdpError::Busy { .. }), "{error}");
    assert_eq!(net.show_interface()?, before);
    Ok(())
}

fn documented_capabilities_are_enough() -> Result<()> {
    let net = TestNet::new()?;
    for &target in targets() {
        let config = config().force_target(target).build()?;
        let loader = net.receiver.enter(|| {
            keep_only(&LOADER_CAPABILITIES);
            XdpLoader::load_and_attach(&config, &online_cpus())
        })?;
        net.sending_socket()?.send_to(b"junk", TestNet::destination(9999))?;
        assert_eq!(loader.stats()?.dropped, 1, "{target}");
    }
    Ok(())
}
