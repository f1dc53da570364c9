//! The data that the loader writes for a program: settings that are fixed at loading, control
//! values that may change while the program runs, and keys of the source lists. The functions
//! return each of these in the memory layout of a struct in `laminar_abi.h`.

use std::ffi::CStr;
use std::mem::offset_of;

use ipnet::IpNet;
use laminar_xdp_prebuilt::abi;

use crate::config::{SourceLimit, XdpConfig};
use crate::sys::map::Map;

/// The size in bytes of the ring buffer for samples, a power of two. The buffer holds about 1,600
/// samples.
pub const SAMPLES_SIZE: u32 = 1 << 18;

/// Existing maps, by name, that an object uses instead of creating its own.
pub type SharedMaps<'a> = &'a [(&'static CStr, &'a Map)];

/// The sizes and maps that every object gets before it is loaded.
pub struct Sizing<'a> {
    pub settings: abi::laminar_settings,
    /// Slots of the map that is keyed by CPU id.
    pub cpu_slots: u32,
    pub shared: SharedMaps<'a>,
}

/// The load-time constants of a configuration. XDP programs and socket programs get the same
/// values. The number of partitions depends on the CPUs, so the configuration alone does not
/// contain it.
pub fn settings(config: &XdpConfig, partitions: u32) -> abi::laminar_settings {
    abi::laminar_settings { partitions, features: features(config), interface_slot: 0 }
}

/// The settings that sockets enforce without XDP.
#[derive(Debug, Clone, Copy)]
pub struct SocketSettings {
    pub partitions: u32,
}

impl SocketSettings {
    /// The pattern names every setting. A new setting is a compile error here until the pattern
    /// says whether sockets enforce it.
    pub fn new(settings: &abi::laminar_settings) -> SocketSettings {
        let abi::laminar_settings { partitions, features: _, interface_slot: _ } = *settings;
        SocketSettings { partitions }
    }
}

/// The features that a configuration asks for, as bits of `enum laminar_feature`.
pub fn features(config: &XdpConfig) -> u32 {
    let wanted = [
        (config.source_lists.is_some(), abi::LAMINAR_FEATURE_LISTS),
        (config.source_limit.is_some(), abi::LAMINAR_FEATURE_LIMIT),
        (config.drop_samples.is_some(), abi::LAMINAR_FEATURE_SAMPLES),
        (!config.more_ports.is_empty(), abi::LAMINAR_FEATURE_PORTS),
    ];
    wanted.into_iter().filter(|(is_wanted, _)| *is_wanted).map(|(_, bit)| bit).sum()
}

/// The values that may change while the program runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlValues {
    pub ports: Vec<u16>,
    pub limit: Option<SourceLimit>,
    /// The program samples one in this many drops of each reason and CPU; 0 samples none.
    pub sample_every: u32,
}

impl ControlValues {
    /// The values that the program starts with.
    pub fn initial(config: &XdpConfig) -> ControlValues {
        let sample_every = config.drop_samples.unwrap_or(0);
        ControlValues { ports: config.ports(), limit: config.source_limit, sample_every }
    }

    /// The memory layout of `struct laminar_controls`.
    pub fn to_bytes(&self) -> [u8; size_of::<abi::laminar_controls>()] {
        let mut bytes = [0; size_of::<abi::laminar_controls>()];
        let mut put = |offset: usize, value: &[u8]| {
            bytes[offset..offset + value.len()].copy_from_slice(value);
        };
        for (i, port) in self.ports.iter().take(XdpConfig::MAX_PORTS).enumerate() {
            put(offset_of!(abi::laminar_controls, ports) + 2 * i, &port.to_be_bytes());
        }
        let (interval, tolerance) =
            self.limit.map_or((0, 0), |limit| (limit.interval(), limit.tolerance()));
        put(offset_of!(abi::laminar_controls, interval), &interval.to_ne_bytes());
        put(offset_of!(abi::laminar_controls, tolerance), &tolerance.to_ne_bytes());
        let sample_every = self.sample_every.to_ne_bytes();
        put(offset_of!(abi::laminar_controls, sample_every), &sample_every);
        bytes
    }
}

/// The value of every key in a source list. The program ignores it.
pub const LISTED: [u8; 1] = [1];

/// A key of a source list, in the memory layout of `struct laminar_prefix`.
pub fn prefix_key(prefix: &IpNet) -> [u8; size_of::<abi::laminar_prefix>()] {
    let mut key = [0; size_of::<abi::laminar_prefix>()];
    let mut put = |offset: usize, value: &[u8]| {
        key[offset..offset + value.len()].copy_from_slice(value);
    };
    let source = offset_of!(abi::laminar_prefix, source);
    let family = source + offset_of!(abi::laminar_source, family);
    let address = source + offset_of!(abi::laminar_source, address);
    // The trie compares bits from the start of `source`, where the family comes before the
    // address. The prefix length therefore includes the bits of the family.
    let bits_before_address = 8 * (address - source) as u32;
    let length = bits_before_address + u32::from(prefix.prefix_len());
    put(offset_of!(abi::laminar_prefix, length), &length.to_ne_bytes());
    match prefix {
        IpNet::V4(prefix) => {
            put(family, &4u32.to_ne_bytes());
            put(address, &prefix.network().octets());
        }
        IpNet::V6(prefix) => {
            put(family, &6u32.to_ne_bytes());
            put(address, &prefix.network().octets());
        }
    }
    key
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::SourceLists;

    #[test]
    fn features_follow_the_configuration() {
        let new = XdpConfig::builder;
        assert_eq!(features(&new().build().unwrap()), 0);
        let all = new()
            .more_ports([1])
            .drop_samples(1)
            .source_lists(SourceLists::default())
            .source_limit(SourceLimit::per_second(1));
        assert_eq!(features(&all.build().unwrap()), 15);
    }

    #[test]
    fn a_prefix_key_holds_family_and_address_in_network_order() {
        let key = |text: &str| prefix_key(&text.parse().unwrap());
        let ipv4 = key("192.0.2.129/25");
        assert_eq!(ipv4[..4], (32u32 + 25).to_ne_bytes());
        assert_eq!(ipv4[4..8], 4u32.to_ne_bytes());
        assert_eq!(ipv4[8..12], [192, 0, 2, 128], "bits after the prefix are cleared");
        assert_eq!(ipv4[12..], [0; 12]);
        let ipv6 = key("2001:db8::1/128");
        assert_eq!(ipv6[..4], 160u32.to_ne_bytes());
        assert_eq!(ipv6[8..12], [0x20, 0x01, 0x0d, 0xb8]);
    }
}
