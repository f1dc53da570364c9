//! Every kind of bad input that is not about the objects: a clear error, and
//! nothing left attached.

use anyhow::Result;
use laminar_xdp::{XdpConfig, XdpError, XdpLoader};
use testbed::{TestNet, seccomp};

use crate::support::{config, keep_only, load, online_cpus, tests, with_cpu_offline};

tests! {
    Root:
        an_unknown_interface;
    Namespaces:
        cores_that_cannot_be_used,
        partitions_that_do_not_divide,
        switched_off,
        missing_capabilities,
        a_kernel_without_bpf,
        rights_that_end_at_a_user_namespace,
        fields_set_by_hand_are_checked_too;
    WholeMachine:
        an_offline_core;
}

/// The error, after checking that the interface is untouched.
fn refused(config: &XdpConfig, cores: &[u32]) -> Result<XdpError> {
    let net = TestNet::new()?;
    let error = load(&net, config, cores).expect_err("bad input");
    assert!(!net.carries_xdp()?);
    Ok(error)
}

fn an_unknown_interface() -> Result<()> {
    let error = refused(&config().interface("missing0").build()?, &online_cpus())?;
    assert!(error.to_string().contains("missing0"), "{error}");
    assert!(matches!(error, XdpError::InterfaceNotFound { .. }));
    Ok(())
}

fn cores_that_cannot_be_used() -> Result<()> {
    let config = config().build()?;
    for (cores, says) in
        [(&[][..], "no CPU"), (&[0, 1, 0], "twice"), (&[100_000], "does not exist")]
    {
        let error = refused(&config, cores)?;
        assert!(matches!(error, XdpError::Config(ref error) if error.field() == "cpus"), "{error}");
        assert!(error.to_string().contains(says), "{error}");
    }
    Ok(())
}

/// Takes the last CPU offline for a moment, which is why it runs alone.
fn an_offline_core() -> Result<()> {
    let last = *online_cpus().last().unwrap();
    let config = config().build()?;
    let error = with_cpu_offline(last, || refused(&config, &[0, last]))??;
    assert!(matches!(error, XdpError::Config(ref error) if error.field() == "cpus"), "{error}");
    assert!(error.to_string().contains("offline"), "{error}");
    Ok(())
}

fn partitions_that_do_not_divide() -> Result<()> {
    let error = refused(&config().partitions(65).build()?, &online_cpus()[..2])?;
    assert!(error.to_string().contains("use 64 or 66"), "{error}");
    Ok(())
}

fn switched_off() -> Result<()> {
    let error = refused(&config().enabled(false).build()?, &online_cpus())?;
    assert!(matches!(error, XdpError::Disabled));
    Ok(())
}

fn refused_with(restrict: impl FnOnce() + Send) -> Result<XdpError> {
    let net = TestNet::new()?;
    let config = config().build()?;
    let error = net.receiver.enter(|| {
        restrict();
        XdpLoader::load_and_attach(&config, &online_cpus()).expect_err("restricted")
    });
    assert!(!net.carries_xdp()?);
    Ok(error)
}

/// The first right that is missing is named.
fn missing_capabilities() -> Result<()> {
    use caps::Capability::{CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON};
    for (kept, missing) in [
        (&[][..], "CAP_BPF"),
        (&[CAP_PERFMON, CAP_NET_ADMIN], "CAP_BPF"),
        (&[CAP_BPF, CAP_NET_ADMIN], "CAP_PERFMON"),
        (&[CAP_BPF, CAP_PERFMON], "CAP_NET_ADMIN"),
    ] {
        let error = refused_with(|| keep_only(kept))?;
        assert!(matches!(error, XdpError::MissingCapability { .. }), "{error}");
        assert!(error.to_string().contains(&format!("lacks {missing}")), "{error}");
    }
    Ok(())
}

fn a_kernel_without_bpf() -> Result<()> {
    let error = refused_with(|| seccomp::deny_bpf(libc::ENOSYS).unwrap())?;
    assert!(matches!(error, XdpError::KernelWithoutBpf { .. }), "{error}");
    assert!(error.to_string().contains("CONFIG_BPF_SYSCALL"), "{error}");
    Ok(())
}

/// All capabilities, but the kernel does not honour them.
fn rights_that_end_at_a_user_namespace() -> Result<()> {
    let error = refused_with(|| seccomp::deny_bpf(libc::EPERM).unwrap())?;
    assert!(matches!(error, XdpError::MissingCapability { .. }), "{error}");
    assert!(error.to_string().contains("user namespace"), "{error}");
    Ok(())
}

/// The fields are public: whoever does without the builder is checked as well.
fn fields_set_by_hand_are_checked_too() -> Result<()> {
    let bad: [fn(&mut XdpConfig); 5] = [
        |config| config.port = 0,
        |config| config.cpu_queue_size = 0,
        |config| config.cpu_queue_size = 16_385,
        |config| config.partitions = Some(0),
        |config| config.interface = "../../etc".into(),
    ];
    for spoil in bad {
        let mut config = config().build()?;
        spoil(&mut config);
        let error = refused(&config, &online_cpus())?;
        assert!(matches!(error, XdpError::Config(_)), "{error}");
    }
    Ok(())
}
