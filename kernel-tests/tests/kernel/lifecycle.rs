//! Attaching and detaching, in every way that it can begin and end.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use laminar_xdp::{XdpAttachMode, XdpError, XdpLoader};
use testbed::frame::datagram;
use testbed::{RxCpuSockets, TestNet, bpf};
use xshell::{Shell, cmd};

use crate::support::{
    BASELINE, HOLD, LOADER_CAPABILITIES, best, config, fail_link_create, keep_only, load,
    object_of, online_cpus, prebuilt, steering_modes, targets, tests, wait_until,
};

tests! {
    Root:
        it_stays_attached_until_dropped,
        detach_answers,
        kill_9_detaches,
        a_second_loader_is_turned_away,
        another_program_is_left_alone,
        another_program_is_known_by_id_without_cap_sys_admin,
        auto_is_native_where_it_can_be,
        a_large_mtu_rules_out_native_only,
        a_driver_without_xdp_rules_out_native_only,
        what_a_link_cannot_hold_is_not_left_behind,
        other_objections_rule_out_native_only,
        a_tap_is_not_steered_in_native_mode,
        netlink_says_what_the_kernel_has_against_it,
        netlink_leaves_alone_what_came_after,
        netlink_serves_where_there_are_no_links,
        what_a_tool_attached_is_left_alone,
        three_capabilities_are_enough;
}

fn it_stays_attached_until_dropped() -> Result<()> {
    let net = TestNet::new()?;
    for _ in 0..3 {
        assert!(!net.carries_xdp()?);
        let loader = load(&net, &config().build()?, &online_cpus())?;
        // The field's own attempt detached here, when loading returned.
        assert!(net.carries_xdp()?);
        assert!(loader.ends_with_process());
        let sender = net.sending_socket()?;
        sender.send_to(b"junk", TestNet::destination(9999))?;
        assert_eq!(loader.stats()?.dropped, 1);
        drop(loader);
        assert!(!net.carries_xdp()?, "dropping detaches at once");
    }
    Ok(())
}

fn detach_answers() -> Result<()> {
    let net = TestNet::new()?;
    load(&net, &config().build()?, &online_cpus())?.detach()?;
    assert!(!net.carries_xdp()?);
    Ok(())
}

fn kill_9_detaches() -> Result<()> {
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
    // Not a black hole: valid packets arrive, and so does what XDP would drop.
    let witness = net.receiver.enter(|| RxCpuSockets::bind(TestNet::destination(9999)))?;
    let sender = net.sending_socket()?;
    sender.send_to(&datagram(1, b""), TestNet::destination(9999))?;
    sender.send_to(b"junk", TestNet::destination(9999))?;
    assert_eq!(witness.receive(2, |_, _| {})?, 2);
    load(&net, &config().build()?, &online_cpus()).context("after the crash")?;
    Ok(())
}

fn a_second_loader_is_turned_away() -> Result<()> {
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
    assert_eq!(first.stats()?.dropped, 1, "the first goes on as if nothing had happened");
    drop(first);
    load(&net, &config, &online_cpus())?;
    Ok(())
}

fn another_program_is_left_alone() -> Result<()> {
    const PASS: u32 = 2;
    let net = TestNet::new()?;
    let theirs = bpf::empty_program(c"somebody_else", PASS)?;
    let link = net.receiver.enter(|| bpf::attach(&theirs, TestNet::INTERFACE))?;
    let before = net.show_interface()?;
    for mode in [XdpAttachMode::Auto, XdpAttachMode::Native, XdpAttachMode::Generic] {
        let error = load(&net, &config().attach_mode(mode).build()?, &online_cpus()).unwrap_err();
        let text = error.to_string();
        let XdpError::Busy { holder, .. } = error else { panic!("{error:?}") };
        assert_eq!(holder.name.as_deref(), Some("somebody_else"));
        assert!(text.contains("somebody_else") && text.contains(&holder.id.to_string()), "{text}");
    }
    assert_eq!(net.show_interface()?, before);
    drop(link);
    Ok(())
}

fn another_program_is_known_by_id_without_cap_sys_admin() -> Result<()> {
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

fn auto_is_native_where_it_can_be() -> Result<()> {
    let net = TestNet::new()?;
    let loader = load(&net, &config().build()?, &online_cpus())?;
    assert_eq!(loader.mode(), XdpAttachMode::Native);
    assert!(net.show_interface()?.contains(" xdp "), "{}", net.show_interface()?);
    let selection = loader.selection().to_string();
    let (best, baseline) = (best(), object_of(BASELINE));
    assert!(
        selection.contains(&format!("{best}: picked, native mode, filters and steers")),
        "{selection}"
    );
    assert!(selection.contains(&format!("{baseline}: not needed")), "{selection}");
    Ok(())
}

/// For packets that have to lie in one buffer. The kernel's own words come through
/// netlink, where a link says nothing but a number.
fn a_large_mtu_rules_out_native_only() -> Result<()> {
    let net = TestNet::new()?;
    net.set_mtu(9000)?;
    let one_buffer = || config().force_target("linux-5.9");
    match load(&net, &one_buffer().attach_mode(XdpAttachMode::Native).build()?, &online_cpus()) {
        Err(error @ XdpError::Attach { mode: XdpAttachMode::Native, .. }) => {
            assert!(error.to_string().contains("lower the MTU"), "{error}");
            let XdpError::Attach { kernel_message, .. } = error else { unreachable!() };
            let message = kernel_message.unwrap_or_default();
            assert!(message.contains("MTU is too large"), "{message:?}");
        }
        other => panic!("{other:?}"),
    }
    assert!(!net.carries_xdp()?);
    // Its table was filled for native mode; in generic mode nothing may be left.
    let baseline = config().force_target(BASELINE).build()?;
    let loader = load(&net, &baseline, &online_cpus())?;
    assert_eq!(loader.mode(), XdpAttachMode::Generic, "auto finds the way that works");
    assert!(!loader.steers());
    let witness = net.receiver.enter(|| RxCpuSockets::bind(TestNet::destination(9999)))?;
    net.sending_socket()?.send_to(&datagram(1, b""), TestNet::destination(9999))?;
    assert_eq!((witness.receive(1, |_, _| {})?, loader.stats()?.passed_no_queue), (1, 1));
    drop(loader);
    if steering_modes().contains(&XdpAttachMode::Generic) {
        let loader = load(&net, &one_buffer().build()?, &online_cpus())?;
        assert_eq!((loader.mode(), loader.steers()), (XdpAttachMode::Generic, true));
        let text = loader.selection().to_string();
        assert!(text.contains("MTU is too large"), "why not native: {text}");
    }
    Ok(())
}

/// The loopback interface has no XDP in its driver.
fn a_driver_without_xdp_rules_out_native_only() -> Result<()> {
    let net = TestNet::new()?;
    let on_lo = || config().interface("lo");
    match load(&net, &on_lo().attach_mode(XdpAttachMode::Native).build()?, &online_cpus()) {
        Err(error @ XdpError::Attach { .. }) => {
            assert!(error.to_string().contains("has no native XDP"), "{error}");
        }
        other => panic!("{other:?}"),
    }
    let loader = load(&net, &on_lo().build()?, &online_cpus())?;
    assert_eq!(loader.mode(), XdpAttachMode::Generic);
    // The mode is given up with the first object, the others are not tried in it.
    let candidates = &loader.selection().candidates;
    let errors = candidates.iter().flat_map(|candidate| &candidate.attach_errors);
    assert_eq!(errors.filter(|error| error.mode == XdpAttachMode::Native).count(), 1);
    Ok(())
}

/// A link fails and netlink would not: the attachment that would outlive the process is
/// taken off, and is not taken for somebody else's.
fn what_a_link_cannot_hold_is_not_left_behind() -> Result<()> {
    let net = TestNet::new()?;
    let error = net.receiver.enter(|| -> Result<XdpError> {
        fail_link_create(libc::EBUSY)?;
        Ok(XdpLoader::load_and_attach(&config().build()?, &online_cpus()).unwrap_err())
    })?;
    assert!(!net.carries_xdp()?, "{error}");
    let XdpError::NoUsableObject { selection } = error else { panic!("{error}") };
    assert!(selection.to_string().contains("try again"), "{selection}");
    Ok(())
}

/// A driver may have reasons of its own: a veth whose peer sends on more queues
/// than it receives on answers ENOSPC.
fn other_objections_rule_out_native_only() -> Result<()> {
    let net = TestNet::new()?;
    net.receiver.enter(|| {
        testbed::ip(
            "link add few0 numrxqueues 1 numtxqueues 1 type veth \
             peer name many0 numrxqueues 4 numtxqueues 4\n\
             link set dev many0 up\n\
             link set dev few0 up\n",
        )
    })?;
    let loader = load(&net, &config().interface("few0").build()?, &online_cpus())?;
    assert_eq!(loader.mode(), XdpAttachMode::Generic);
    Ok(())
}

/// Its driver loses what is redirected there. The machines of `make matrix` have none.
fn a_tap_is_not_steered_in_native_mode() -> Result<()> {
    if !std::fs::exists("/dev/net/tun")? {
        return Ok(());
    }
    let net = TestNet::new()?;
    net.receiver.enter(|| testbed::ip("tuntap add dev tap0 mode tap\nlink set dev tap0 up\n"))?;
    let on_tap = || config().interface("tap0");
    let loader = load(&net, &on_tap().build()?, &online_cpus())?;
    assert_eq!((loader.mode(), loader.steers()), (XdpAttachMode::Generic, true));
    drop(loader);
    let native = on_tap().attach_mode(XdpAttachMode::Native).build()?;
    let loader = load(&net, &native, &online_cpus())?;
    assert_eq!((loader.mode(), loader.steers()), (XdpAttachMode::Native, false));
    let text = loader.selection().to_string();
    assert!(text.contains("filters without steering: the driver of taps loses"), "{text}");
    Ok(())
}

/// A kernel before 5.9 answers EINVAL to a link for XDP.
fn netlink_serves_where_there_are_no_links() -> Result<()> {
    let net = TestNet::new()?;
    for mode in [XdpAttachMode::Native, XdpAttachMode::Generic] {
        net.receiver.enter(|| -> Result<()> {
            fail_link_create(libc::EINVAL)?;
            let loader =
                XdpLoader::load_and_attach(&config().attach_mode(mode).build()?, &online_cpus())?;
            assert!(!loader.ends_with_process());
            assert_eq!(loader.mode(), mode);
            assert!(net.carries_xdp()?);
            let second = XdpLoader::load_and_attach(&config().build()?, &online_cpus());
            assert!(matches!(second, Err(XdpError::Busy { .. })), "{second:?}");
            net.sending_socket()?.send_to(b"junk", TestNet::destination(9999))?;
            assert_eq!(loader.stats()?.dropped, 1);
            drop(loader);
            assert!(!net.carries_xdp()?, "dropping detaches");
            Ok(())
        })?;
    }
    Ok(())
}

/// Even if it is one of our objects: nobody's process left it there.
fn what_a_tool_attached_is_left_alone() -> Result<()> {
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

fn netlink_says_what_the_kernel_has_against_it() -> Result<()> {
    let net = TestNet::new()?;
    net.set_mtu(9000)?;
    let error = net.receiver.enter(|| -> Result<XdpError> {
        fail_link_create(libc::EINVAL)?;
        let config =
            config().force_target("linux-5.9").attach_mode(XdpAttachMode::Native).build()?;
        Ok(XdpLoader::load_and_attach(&config, &online_cpus()).unwrap_err())
    })?;
    let XdpError::Attach { kernel_message, .. } = &error else { panic!("{error:?}") };
    let message = kernel_message.as_deref().unwrap_or_default();
    assert!(message.contains("MTU"), "{error}");
    Ok(())
}

/// What somebody attached since is not ours to take off.
fn netlink_leaves_alone_what_came_after() -> Result<()> {
    let net = TestNet::new()?;
    let loader = net.receiver.enter(|| -> Result<XdpLoader> {
        fail_link_create(libc::EINVAL)?;
        Ok(XdpLoader::load_and_attach(&config().build()?, &online_cpus())?)
    })?;
    assert!(!loader.ends_with_process());
    let ours = loader.program_id()?;
    net.receiver.enter(|| -> Result<()> {
        let (shell, interface) = (Shell::new()?, TestNet::INTERFACE);
        let theirs = prebuilt().join(object_of(BASELINE));
        cmd!(shell, "ip link set dev {interface} xdpdrv off").quiet().run()?;
        cmd!(shell, "ip link set dev {interface} xdpdrv obj {theirs} sec xdp").quiet().run()?;
        let before = net.show_interface()?;
        assert!(before.contains("prog/xdp") && !before.contains(&format!("id {ours} ")));
        loader.detach()?;
        assert_eq!(net.show_interface()?, before);
        Ok(())
    })
}

fn three_capabilities_are_enough() -> Result<()> {
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
