//! Which attach mode the loader uses, and which errors make the loader fall back to generic mode.

use anyhow::Result;
use laminar_xdp::{XdpAttachMode, XdpError};
use testbed::frame::datagram;
use testbed::{RxCpuSockets, TestNet};

use crate::support::{BASELINE, best, config, load, object_of, online_cpus, steering_modes, tests};

tests! {
    Root:
        auto_mode_is_native_if_the_driver_supports_it,
        large_mtu_makes_auto_mode_generic,
        driver_without_xdp_makes_auto_mode_generic,
        any_error_of_the_driver_makes_auto_mode_generic,
        native_mode_does_not_steer_on_a_tap;
}

fn auto_mode_is_native_if_the_driver_supports_it() -> Result<()> {
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

/// The object supports only packets that fit into one buffer, so the driver refuses the object at
/// this MTU. When creating a bpf_link fails, the kernel gives only an error number. The loader
/// therefore also attaches over netlink, to get the driver's message.
fn large_mtu_makes_auto_mode_generic() -> Result<()> {
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
    // Before the driver refused the program, the loader had filled the steering table for native
    // mode. This object does not steer in generic mode, so the loader must clear the table.
    let baseline = config().force_target(BASELINE).build()?;
    let loader = load(&net, &baseline, &online_cpus())?;
    assert_eq!(loader.mode(), XdpAttachMode::Generic, "auto mode");
    assert!(!loader.steers());
    let rx_cpus = net.receiver.enter(|| RxCpuSockets::bind(TestNet::destination(9999)))?;
    net.sending_socket()?.send_to(&datagram(1, b""), TestNet::destination(9999))?;
    assert_eq!((rx_cpus.receive(1, |_, _| {})?, loader.stats()?.passed_no_queue), (1, 1));
    drop(loader);
    if steering_modes().contains(&XdpAttachMode::Generic) {
        let loader = load(&net, &one_buffer().build()?, &online_cpus())?;
        assert_eq!((loader.mode(), loader.steers()), (XdpAttachMode::Generic, true));
        let text = loader.selection().to_string();
        assert!(text.contains("MTU is too large"), "the reason against native mode: {text}");
    }
    Ok(())
}

/// The driver of the loopback interface does not support XDP.
fn driver_without_xdp_makes_auto_mode_generic() -> Result<()> {
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
    // The first object fails because the driver does not support native mode. Every other object
    // would fail too, so the loader does not try them in native mode.
    let candidates = &loader.selection().candidates;
    let errors = candidates.iter().flat_map(|candidate| &candidate.attach_errors);
    assert_eq!(errors.filter(|error| error.mode == XdpAttachMode::Native).count(), 1);
    Ok(())
}

/// The veth driver fails with ENOSPC if the device has fewer receive queues than its peer has
/// transmit queues.
fn any_error_of_the_driver_makes_auto_mode_generic() -> Result<()> {
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

/// The driver of tap devices loses redirected packets in native mode. The machines of `make matrix`
/// have no tap devices, so the test does nothing there.
fn native_mode_does_not_steer_on_a_tap() -> Result<()> {
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
