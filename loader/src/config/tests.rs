use super::*;
use crate::config::checks::check_ports;

fn refused_field(builder: XdpConfigBuilder) -> &'static str {
    builder.build().expect_err("the value is refused").field()
}

#[test]
fn defaults_are_the_documented_values_and_valid() {
    let config = XdpConfig::default();
    assert!(!config.enabled && config.fallback_on_error);
    assert_eq!(config.bpf_object_path, PathBuf::from("/usr/share/laminardb/laminar_xdp.o"));
    assert_eq!((config.interface.as_str(), config.port), ("eth0", 9999));
    assert_eq!((config.attach_mode, config.cpu_queue_size), (XdpAttachMode::Auto, 2048));
    assert_eq!((config.max_sources, config.max_prefixes), (65_536, 1024));
    config.validate().unwrap();
    assert_eq!(XdpConfigBuilder::default().build().unwrap(), config);
}

#[test]
fn an_unusable_value_is_refused_with_the_name_of_its_field() {
    let new = XdpConfig::builder;
    for name in ["", "a-name-too-long-x", "a/b", "a b", "..", "a\0b"] {
        assert_eq!(refused_field(new().interface(name)), "interface", "{name:?}");
    }
    assert_eq!(refused_field(new().more_interfaces(["eth1"])), "more_interfaces");
    assert_eq!(refused_field(new().more_ports([9999])), "more_ports", "twice");
    assert_eq!(refused_field(new().more_ports([1, 0])), "more_ports");
    assert_eq!(refused_field(new().more_ports(1..=16)), "more_ports");
    assert_eq!(refused_field(new().source_limit(SourceLimit::per_second(0))), "source_limit");
    assert_eq!(refused_field(new().drop_samples(0)), "drop_samples");
    let lists = SourceLists::new().deny(["192.0.2.0/24".parse().unwrap(); 3]);
    assert_eq!(refused_field(new().max_prefixes(2).source_lists(lists)), "source_lists");
    assert_eq!(refused_field(new().attach_mode(XdpAttachMode::Offload)), "attach_mode");
}

#[test]
fn every_ranged_field_is_refused_outside_its_range_and_accepted_at_its_ends() {
    let defaults = serde_json::to_value(XdpConfig::default()).unwrap();
    for (field, _, max) in XdpConfig::default().ranges() {
        let validate = |value: u32| {
            let mut json = defaults.clone();
            json[field] = value.into();
            let config = serde_json::from_value::<XdpConfig>(json).unwrap();
            config.validate().map_err(|error| error.field())
        };
        assert_eq!((validate(0), validate(max + 1)), (Err(field), Err(field)));
        assert_eq!((validate(1), validate(max)), (Ok(()), Ok(())), "{field}");
    }
}

#[test]
fn smallest_and_largest_values_are_accepted() {
    let new = XdpConfig::builder;
    new().port(65_535).cpu_queue_size(16_384).partitions(65_536).build().unwrap();
    new().more_ports(1..=15).max_sources(1 << 24).max_prefixes(1 << 20).build().unwrap();
    new().port(1).cpu_queue_size(1).partitions(1).interface("a").build().unwrap();
}

#[test]
fn port_0_is_accepted_without_xdp_only() {
    let new = XdpConfig::builder;
    assert_eq!(refused_field(new().enabled(true).port(0)), "port");
    new().port(0).build().unwrap();
    new().port(0).more_ports(1..=15).build().unwrap();
    assert_eq!(refused_field(new().port(0).more_ports(1..=16)), "more_ports");
    assert_eq!(refused_field(new().port(0).more_ports([0])), "more_ports");
    assert!(check_ports("ports", &[0]).is_err());
}

#[test]
fn ports_are_listed_with_the_first_one_first() {
    let config = XdpConfig::builder().port(5).more_ports([9, 1]).build().unwrap();
    assert_eq!(config.ports(), [5, 9, 1]);
    check_ports("ports", &config.ports()).unwrap();
    assert_eq!(check_ports("ports", &[]).unwrap_err().field(), "ports");
}

#[test]
fn a_configuration_survives_a_serde_round_trip() {
    let config = XdpConfig::builder()
        .enabled(true)
        .interface("eth1")
        .port(9999)
        .more_ports([10_000])
        .attach_mode(XdpAttachMode::Native)
        .partitions(128)
        .source_limit(SourceLimit::per_second(1000).burst(5))
        .source_lists(SourceLists::new().deny(["2001:db8:bad::/48".parse().unwrap()]))
        .drop_samples(1000)
        .force_target("linux-5.9")
        .fallback_on_error(false)
        .build()
        .unwrap();
    for config in [config, XdpConfig::default()] {
        let text = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<XdpConfig>(&text).unwrap(), config, "{text}");
    }
}

#[test]
fn an_empty_file_gives_the_defaults() {
    assert_eq!(toml::from_str::<XdpConfig>("").unwrap(), XdpConfig::default());
}

#[test]
fn unknown_keys_are_refused() {
    for text in [
        "prot = 9999",
        "source_limit = { packets_per_second = 1, brust = 5 }",
        "source_lists = { denied = [] }",
    ] {
        let error = toml::from_str::<XdpConfig>(text).unwrap_err().to_string();
        assert!(error.contains("unknown field"), "{text}: {error}");
    }
}
