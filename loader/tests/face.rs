//! The public API is the same on every platform. This file must compile both with XDP and with
//! `--cfg laminar_xdp_unsupported`, which makes Linux look like a platform without XDP.

use std::error::Error;
use std::net::UdpSocket;
use std::time::Duration;

use laminar_xdp::{
    ByteOrder, ConfigError, Datagram, DropSample, HandOverError, Ingest, IngestConfig, IngestMode,
    IngestStats, IpNet, Received, Receiver, Selection, SourceLimit, XdpAttachMode, XdpConfig,
    XdpControls, XdpCounter, XdpError, XdpInterface, XdpLoader, XdpStats,
};

type Answer<T> = Result<T, XdpError>;

#[test]
fn loader_methods_are_the_same_on_every_platform() {
    let _: fn(&XdpConfig, &[u32]) -> Answer<XdpLoader> = XdpLoader::load_and_attach;
    let _: fn(&XdpLoader) -> Answer<XdpStats> = XdpLoader::stats;
    let _: fn(&XdpLoader) -> Answer<Vec<XdpCounter>> = XdpLoader::counters;
    let _: fn(&XdpLoader) -> &XdpControls = XdpLoader::controls;
    let _: fn(&XdpLoader, u32, u32) -> Answer<()> = XdpLoader::update_cpu_steering;
    let _: fn(XdpLoader) -> Answer<()> = XdpLoader::detach;
    let _: fn(&XdpLoader) -> &[XdpInterface] = XdpLoader::interfaces;
    let _: fn(&XdpLoader) -> &Selection = XdpLoader::selection;
    let _: fn(&XdpLoader) -> XdpAttachMode = XdpLoader::mode;
    let _: [fn(&XdpLoader) -> bool; 2] = [XdpLoader::steers, XdpLoader::detaches_on_exit];
    let _: fn(&XdpLoader) -> Answer<u32> = XdpLoader::program_id;
    let _: fn(&XdpLoader) -> u32 = XdpLoader::partitions;
    let _: fn(&XdpLoader) -> &[u32] = XdpLoader::cpus;
}

#[test]
fn interface_methods_are_the_same_on_every_platform() {
    let _: fn(&XdpInterface) -> &str = XdpInterface::name;
    let _: fn(&XdpInterface) -> &Selection = XdpInterface::selection;
    let _: fn(&XdpInterface) -> XdpAttachMode = XdpInterface::mode;
    let _: [fn(&XdpInterface) -> bool; 2] = [XdpInterface::steers, XdpInterface::detaches_on_exit];
    let _: fn(&XdpInterface) -> Answer<u32> = XdpInterface::program_id;
}

#[test]
fn control_methods_are_the_same_on_every_platform() {
    let _: fn(&XdpControls) -> Answer<Vec<u16>> = XdpControls::ports;
    let _: fn(&XdpControls, &[u16]) -> Answer<()> = XdpControls::set_ports;
    let _: [fn(&XdpControls, u16) -> Answer<()>; 2] =
        [XdpControls::add_port, XdpControls::remove_port];
    let _: fn(&XdpControls, SourceLimit) -> Answer<()> = XdpControls::set_source_limit;
    let _: [fn(&XdpControls, IpNet) -> Answer<()>; 4] = [
        XdpControls::deny,
        XdpControls::remove_deny,
        XdpControls::allow,
        XdpControls::remove_allow,
    ];
    let _: fn(&XdpControls, u32) -> Answer<()> = XdpControls::set_drop_samples;
    let _: fn(&XdpControls, Duration) -> Answer<Vec<DropSample>> = XdpControls::drop_samples;
}

#[test]
fn ingest_methods_are_the_same_on_every_platform() {
    let _: fn(&IngestConfig, &XdpConfig) -> Answer<Ingest> = Ingest::open;
    let _: fn(&Ingest, u32) -> Answer<Receiver> = Ingest::receiver;
    let _: fn(&Ingest) -> &IngestMode = Ingest::mode;
    let _: fn(&Ingest) -> &[XdpInterface] = Ingest::interfaces;
    let _: fn(&Ingest) -> Option<&Selection> = Ingest::selection;
    let _: fn(&Ingest) -> Option<&str> = Ingest::classic_bpf_reason;
    let _: fn(&Ingest) -> Answer<u32> = Ingest::receive_buffer;
    let _: fn(&Ingest) -> Answer<u16> = Ingest::port;
    let _: fn(&Ingest) -> Answer<IngestStats> = Ingest::stats;
    let _: fn(&Ingest) -> Answer<Vec<XdpCounter>> = Ingest::counters;
    let _: fn(&Ingest) -> Option<&XdpControls> = Ingest::controls;
    let _: fn(&Ingest) -> u32 = Ingest::partitions;
    let _: fn(&Ingest) -> &[u32] = Ingest::cpus;
    let _: fn(&Ingest, u32) -> Option<u32> = Ingest::owner;
    let _: fn(&Ingest, u32, u32) -> Answer<()> = Ingest::move_partition;
}

#[test]
fn receiver_methods_are_the_same_on_every_platform() {
    let _: fn(&Receiver) -> u32 = Receiver::cpu;
    let _: fn(&Receiver) -> &UdpSocket = Receiver::socket;
    let _: fn(&Receiver) -> Answer<()> = Receiver::pin_thread;
    let _ = |receiver: &mut Receiver| -> Answer<Received> {
        receiver.receive(Duration::ZERO, |_: Datagram<'_>| {})
    };
    let _: fn(&mut Receiver, fn(Datagram<'_>)) -> usize = Receiver::drain;
    const { assert!(Receiver::BATCH == 32 && Receiver::MAX_HELD == 65_536) };
}

#[cfg(unix)]
#[test]
fn hand_over_methods_and_descriptors_are_the_same_on_every_unix() {
    use laminar_xdp::Offer;
    use std::os::fd::{AsFd, AsRawFd};
    use std::os::unix::net::UnixStream;

    let _: fn(&IngestConfig, &XdpConfig, &UnixStream) -> Answer<Ingest> = Ingest::take_over;
    let _: for<'a> fn(&Ingest, &'a UnixStream) -> Answer<Offer<'a>> = Ingest::offer;
    let _: fn(Ingest, Offer<'_>) -> Result<(), HandOverError> = Ingest::hand_over;
    let _: fn(HandOverError) -> Box<Ingest> = |failed| failed.ingest;
    fn has_descriptor<T: AsFd + AsRawFd>() {}
    has_descriptor::<Receiver>();
}

#[test]
fn types_are_shared_between_threads_as_documented() {
    fn shared<T: Send + Sync>() {}
    fn sent<T: Send>() {}
    shared::<XdpLoader>();
    shared::<XdpControls>();
    shared::<XdpError>();
    shared::<Ingest>();
    sent::<Receiver>();
}

#[test]
fn errors_convert_into_xdp_error() {
    let _: fn(HandOverError) -> XdpError = |failed| failed.error;
    let _: fn(ConfigError) -> XdpError = XdpError::from;
    fn is_error<T: Error + Send + Sync + 'static>() {}
    is_error::<HandOverError>();
    let _: ByteOrder = ByteOrder::HOST;
}

#[cfg(any(laminar_xdp_unsupported, not(target_os = "linux")))]
#[test]
fn opening_and_loading_fail_with_unsupported_platform() {
    let config = XdpConfig::builder().enabled(true).build().unwrap();
    let error = XdpLoader::load_and_attach(&config, &[0]).unwrap_err();
    assert!(matches!(error, XdpError::UnsupportedPlatform { .. }));
    assert!(error.to_string().contains("not supported on this platform"), "{error}");

    let error = Ingest::open(&IngestConfig::new([0]), &config).unwrap_err();
    assert!(matches!(error, XdpError::UnsupportedPlatform { .. }));
}
