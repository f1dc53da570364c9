//! The public API is the same on every platform. This file compiles on Linux and on other
//! platforms. `--cfg laminar_xdp_unsupported` makes Linux look like one of the others.

use std::net::UdpSocket;
use std::time::Duration;

use laminar_xdp::{
    DropSample, Ingest, IngestConfig, IngestMode, IngestStats, IpNet, Receiver, Selection,
    SourceLimit, XdpAttachMode, XdpConfig, XdpControls, XdpCounter, XdpError, XdpLoader, XdpStats,
};

type Answer<T> = Result<T, XdpError>;

#[test]
fn loader_has_the_same_methods_on_every_platform() {
    let _: fn(&XdpConfig, &[u32]) -> Answer<XdpLoader> = XdpLoader::load_and_attach;
    let _: fn(&XdpLoader) -> Answer<XdpStats> = XdpLoader::stats;
    let _: fn(&XdpLoader, u32, u32) -> Answer<()> = XdpLoader::update_cpu_steering;
    let _: fn(XdpLoader) -> Answer<()> = XdpLoader::detach;
    let _: fn(&XdpLoader) -> &Selection = XdpLoader::selection;
    let _: fn(&XdpLoader) -> XdpAttachMode = XdpLoader::mode;
    let _: fn(&XdpLoader) -> bool = XdpLoader::steers;
    let _: fn(&XdpLoader) -> bool = XdpLoader::ends_with_process;
    let _: fn(&XdpLoader) -> u32 = XdpLoader::partitions;
    let _: fn(&XdpLoader) -> &[u32] = XdpLoader::cores;
    let _: fn(&XdpLoader) -> Answer<u32> = XdpLoader::program_id;
    let _: fn(&XdpLoader) -> Answer<Vec<XdpCounter>> = XdpLoader::counters;
    let _: fn(&XdpLoader) -> &XdpControls = XdpLoader::controls;
    fn shared_between_threads<T: Send + Sync>() {}
    shared_between_threads::<XdpLoader>();
    shared_between_threads::<XdpError>();
}

#[test]
fn controls_have_the_same_methods_on_every_platform() {
    let _: fn(&XdpControls) -> Answer<Vec<u16>> = XdpControls::ports;
    let _: fn(&XdpControls, &[u16]) -> Answer<()> = XdpControls::set_ports;
    let _: fn(&XdpControls, SourceLimit) -> Answer<()> = XdpControls::set_source_limit;
    let _: [fn(&XdpControls, IpNet) -> Answer<()>; 4] = [
        XdpControls::deny,
        XdpControls::stop_denying,
        XdpControls::allow,
        XdpControls::stop_allowing,
    ];
    let _: fn(&XdpControls, u32) -> Answer<()> = XdpControls::set_drop_samples;
    let _: fn(&XdpControls, Duration) -> Answer<Vec<DropSample>> = XdpControls::drop_samples;
}

#[test]
fn ingest_has_the_same_methods_on_every_platform() {
    let _: fn(&IngestConfig, &XdpConfig) -> Answer<Ingest> = Ingest::open;
    let _: fn(&Ingest, u32) -> Answer<Receiver> = Ingest::receiver;
    let _: fn(&Ingest) -> &IngestMode = Ingest::mode;
    let _: fn(&Ingest) -> Option<&Selection> = Ingest::selection;
    let _: fn(&Ingest) -> Option<&str> = Ingest::classic_reason;
    let _: fn(&Ingest) -> Answer<u32> = Ingest::receive_buffer;
    let _: fn(&Ingest) -> Answer<IngestStats> = Ingest::stats;
    let _: fn(&Ingest) -> Answer<Vec<XdpCounter>> = Ingest::counters;
    let _: fn(&Ingest) -> Option<&XdpControls> = Ingest::controls;
    let _: fn(&Ingest) -> u32 = Ingest::partitions;
    let _: fn(&Ingest) -> &[u32] = Ingest::cores;
    let _: fn(&Ingest, u32) -> Option<u32> = Ingest::owner;
    let _: fn(&Ingest, u32, u32) -> Answer<()> = Ingest::move_partition;
    let _: fn(&Receiver) -> u32 = Receiver::core;
    let _: fn(&Receiver) -> &UdpSocket = Receiver::socket;
    let _: fn(&Receiver) -> Answer<()> = Receiver::pin_thread;
    let _ = |receiver: &mut Receiver| receiver.receive(Duration::ZERO, |_| {});
    let _ = |receiver: &mut Receiver| receiver.handle_left(|_| {});
    const { assert!(Receiver::BATCH <= Receiver::MOST_HELD) };
    #[cfg(unix)]
    {
        use laminar_xdp::Offer;
        use std::os::fd::BorrowedFd;
        use std::os::unix::net::UnixStream;
        let _: fn(&Receiver) -> BorrowedFd<'_> = Receiver::attention;
        let _: fn(&IngestConfig, &XdpConfig, &UnixStream) -> Answer<Ingest> = Ingest::take_over;
        let _: for<'a> fn(&Ingest, &'a UnixStream) -> Answer<Offer<'a>> = Ingest::offer;
        let _: fn(&mut Ingest, Offer<'_>) -> Answer<()> = Ingest::hand_over;
    }
    fn shared_between_threads<T: Send + Sync>() {}
    shared_between_threads::<Ingest>();
    fn sent_to_threads<T: Send>() {}
    sent_to_threads::<Receiver>();
}

#[cfg(any(laminar_xdp_unsupported, not(target_os = "linux")))]
#[test]
fn loading_fails_on_a_platform_without_xdp() {
    let config = XdpConfig { enabled: true, ..XdpConfig::default() };
    let error = XdpLoader::load_and_attach(&config, &[0]).unwrap_err();
    assert!(matches!(error, XdpError::UnsupportedPlatform { .. }));
    assert!(error.to_string().contains("not supported on this platform"), "{error}");

    let error = Ingest::open(&IngestConfig::new([0]), &config).unwrap_err();
    assert!(matches!(error, XdpError::UnsupportedPlatform { .. }));
}
