//! The public face is the same on every platform: this compiles with XDP and
//! with `--cfg laminar_xdp_unsupported`, which is how platforms without it are
//! tested.

use laminar_xdp::{Selection, Startup, XdpAttachMode, XdpConfig, XdpError, XdpLoader, XdpStats};

type Answer<T> = Result<T, XdpError>;

#[test]
fn the_loader_has_the_same_methods_everywhere() {
    let _: fn(&XdpConfig, &[u32]) -> Answer<XdpLoader> = XdpLoader::load_and_attach;
    let _: fn(&XdpConfig, &[u32]) -> Answer<Startup> = XdpLoader::load_or_fall_back;
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
    fn shared_between_threads<T: Send + Sync>() {}
    shared_between_threads::<XdpLoader>();
    shared_between_threads::<XdpError>();
}

#[cfg(any(laminar_xdp_unsupported, not(target_os = "linux")))]
#[test]
fn every_load_says_that_the_platform_is_not_supported() {
    let config = XdpConfig { enabled: true, ..XdpConfig::default() };
    let error = XdpLoader::load_and_attach(&config, &[0]).unwrap_err();
    assert!(matches!(error, XdpError::UnsupportedPlatform { .. }));
    assert!(error.to_string().contains("not supported on this platform"), "{error}");

    let fell_back = XdpLoader::load_or_fall_back(&config, &[0]).unwrap();
    assert!(matches!(fell_back, Startup::Sockets(XdpError::UnsupportedPlatform { .. })));
    let strict = XdpConfig { fallback_on_error: false, ..config };
    assert!(XdpLoader::load_or_fall_back(&strict, &[0]).is_err());
}
