//! Bad input other than bad object files. For each bad input, the error names the problem, and no
//! program is attached.

use anyhow::Result;
use laminar_xdp::{XdpConfig, XdpError, XdpLoader};
use testbed::{TestNet, seccomp};

use crate::support::{config, keep_only, load, online_cpus, tests, with_cpu_offline};

tests! {
    Root:
        unknown_interface_is_named;
    Namespaces:
        empty_repeated_and_unknown_cpus_are_refused,
        partitions_must_be_a_multiple_of_the_cpus,
        disabled_configuration_is_an_error,
        first_missing_capability_is_named,
        kernel_without_bpf_is_reported,
        capabilities_of_a_user_namespace_are_reported_as_missing,
        fields_set_without_the_builder_are_checked;
    WholeMachine:
        offline_cpu_is_refused;
}

/// Tries to load and returns the error. Fails if a program is attached afterwards.
fn refused(config: &XdpConfig, cpus: &[u32]) -> Result<XdpError> {
    let net = TestNet::new()?;
    let error = load(&net, config, cpus).expect_err("bad input");
    assert!(!net.carries_xdp()?);
    Ok(error)
}

fn unknown_interface_is_named() -> Result<()> {
    let error = refused(&config().interface("missing0").build()?, &online_cpus())?;
    assert!(error.to_string().contains("missing0"), "{error}");
    assert!(matches!(error, XdpError::InterfaceNotFound { .. }));
    Ok(())
}

fn empty_repeated_and_unknown_cpus_are_refused() -> Result<()> {
    let config = config().build()?;
    for (cpus, says) in [(&[][..], "no CPU"), (&[0, 1, 0], "twice"), (&[100_000], "does not exist")]
    {
        let error = refused(&config, cpus)?;
        assert!(matches!(error, XdpError::Config(ref error) if error.field() == "cpus"), "{error}");
        assert!(error.to_string().contains(says), "{error}");
    }
    Ok(())
}

fn offline_cpu_is_refused() -> Result<()> {
    let last = *online_cpus().last().unwrap();
    let config = config().build()?;
    let error = with_cpu_offline(last, || refused(&config, &[0, last]))??;
    assert!(matches!(error, XdpError::Config(ref error) if error.field() == "cpus"), "{error}");
    assert!(error.to_string().contains("offline"), "{error}");
    Ok(())
}

fn partitions_must_be_a_multiple_of_the_cpus() -> Result<()> {
    let error = refused(&config().partitions(65).build()?, &online_cpus()[..2])?;
    assert!(error.to_string().contains("use 64 or 66"), "{error}");
    Ok(())
}

fn disabled_configuration_is_an_error() -> Result<()> {
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

fn first_missing_capability_is_named() -> Result<()> {
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

fn kernel_without_bpf_is_reported() -> Result<()> {
    let error = refused_with(|| seccomp::deny_bpf(libc::ENOSYS).unwrap())?;
    assert!(matches!(error, XdpError::KernelWithoutBpf { .. }), "{error}");
    assert!(error.to_string().contains("CONFIG_BPF_SYSCALL"), "{error}");
    Ok(())
}

/// The process has all capabilities, but bpf() fails with EPERM, as it does in a user namespace.
fn capabilities_of_a_user_namespace_are_reported_as_missing() -> Result<()> {
    let error = refused_with(|| seccomp::deny_bpf(libc::EPERM).unwrap())?;
    assert!(matches!(error, XdpError::MissingCapability { .. }), "{error}");
    assert!(error.to_string().contains("user namespace"), "{error}");
    Ok(())
}

fn fields_set_without_the_builder_are_checked() -> Result<()> {
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
