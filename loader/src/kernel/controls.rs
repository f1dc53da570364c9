//! What may be changed and looked at while the program runs: ports, limits, lists,
//! samples.

use std::io;
use std::mem::offset_of;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use ipnet::IpNet;
use laminar_xdp_prebuilt::abi;

use crate::capture::DropSample;
use crate::config::{XdpConfig, check_ports};
use crate::error::XdpError;
use crate::kernel::libbpf::{monotonic_now, ring::Ring};
use crate::kernel::object::Map;
use crate::sources::SourceLimit;
use crate::stats::XdpReason;

/// Bytes of the ring buffer that samples wait in, a power of two: some 1,600 samples.
pub const SAMPLES_SIZE: u32 = 1 << 18;

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

/// What may change while the program runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Values {
    ports: Vec<u16>,
    limit: Option<SourceLimit>,
    sample_every: u32,
}

impl Values {
    /// Those to begin with.
    pub fn of(config: &XdpConfig) -> Values {
        let sample_every = config.drop_samples.unwrap_or(0);
        Values { ports: config.ports(), limit: config.source_limit, sample_every }
    }

    /// `struct laminar_controls` as it stands in memory.
    pub fn to_bytes(&self) -> [u8; size_of::<abi::laminar_controls>()] {
        let mut bytes = [0; size_of::<abi::laminar_controls>()];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
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

/// A key of one of the lists: `struct laminar_prefix` as it stands in memory.
pub fn prefix_key(prefix: &IpNet) -> [u8; size_of::<abi::laminar_prefix>()] {
    let mut key = [0; size_of::<abi::laminar_prefix>()];
    let mut put = |at: usize, value: &[u8]| key[at..at + value.len()].copy_from_slice(value);
    let source = offset_of!(abi::laminar_prefix, source);
    let family = source + offset_of!(abi::laminar_source, family);
    let address = source + offset_of!(abi::laminar_source, address);
    let in_front = 8 * (address - source) as u32;
    let length = in_front + u32::from(prefix.prefix_len());
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

/// The value of each key; it has no meaning.
const LISTED: [u8; 1] = [1];

/// Puts a prefix on a list.
pub fn add(list: &Map, prefix: &IpNet) -> io::Result<()> {
    list.put(&prefix_key(prefix), &LISTED)
}

/// What may be changed and looked at while the program runs. Changes act from the next
/// packet on, each on its own: there is no moment without a limit or a list, but for a port
/// that changes its place among several, which may be missed for nanoseconds. They end
/// with this program: one that takes its place ([`crate::Ingest::take_over`]) begins with
/// its own configuration, and full buckets.
#[derive(Debug)]
pub struct XdpControls {
    /// `None` of a program that another process loaded.
    held: Option<Held>,
}

#[derive(Debug)]
pub struct Held {
    /// Bits of `enum laminar_feature`.
    pub features: u32,
    /// Whether more than one port can be set.
    pub several_ports: bool,
    pub max_prefixes: u32,
    pub values: Map,
    pub now: Mutex<Values>,
    pub deny: Option<Map>,
    pub allow: Option<Map>,
    pub samples: Option<Mutex<Ring>>,
}

impl XdpControls {
    pub(super) fn new(held: Held) -> XdpControls {
        XdpControls { held: Some(held) }
    }

    /// Those of a program that another process loaded, and keeps to itself.
    pub(super) fn of_another_process() -> XdpControls {
        XdpControls { held: None }
    }

    /// The ports that are filtered and steered, the first one first.
    ///
    /// # Errors
    /// [`XdpError::Config`] where the program is one of a process before, which could not
    /// be replaced; so have all that follow.
    pub fn ports(&self) -> Result<Vec<u16>, XdpError> {
        let now = self.held("ports")?.now.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(now.ports.clone())
    }

    /// Filters other ports instead, 1 to 16 of them. [`crate::Ingest`] goes on to receive
    /// on the port at which it was opened.
    ///
    /// # Errors
    /// [`XdpError::Config`] for ports that cannot be, and for more than one where the
    /// program was loaded for one: that one looks for no others, so as to cost nothing.
    /// [`XdpError::Kernel`] if the kernel refuses.
    pub fn set_ports(&self, ports: &[u16]) -> Result<(), XdpError> {
        check_ports("ports", ports)?;
        if ports.len() > 1 && !self.held("ports")?.several_ports {
            let problem = "the program was loaded for one port and looks for no others; load it \
                           with `more_ports`";
            return Err(XdpError::config("ports", problem));
        }
        self.change("ports", |values| values.ports = ports.to_vec())
    }

    /// Sets another limit for each source. What a bucket lacks is kept as time: at another
    /// rate it is so many packets more or fewer, but never more than all.
    ///
    /// # Errors
    /// [`XdpError::Config`] for a limit that cannot be kept, or if none was configured at
    /// loading; [`XdpError::Kernel`] if the kernel refuses.
    pub fn set_source_limit(&self, limit: SourceLimit) -> Result<(), XdpError> {
        limit.check()?;
        self.wants("source_limit", abi::LAMINAR_FEATURE_LIMIT)?;
        self.change("source_limit", |values| values.limit = Some(limit))
    }

    /// Drops what comes from a prefix.
    ///
    /// # Errors
    /// [`XdpError::Config`] if no lists were configured at loading, or the list is full
    /// (before Linux 6.13 also for a prefix that is on the full list already); nothing has
    /// changed then. [`XdpError::Kernel`] if the kernel refuses.
    pub fn deny(&self, prefix: IpNet) -> Result<(), XdpError> {
        self.put_on(|held| &held.deny, &prefix)
    }

    /// Takes a prefix, exactly this one, off the list of those that are denied.
    ///
    /// # Errors
    /// [`XdpError::Config`] if no lists were configured at loading, or it is not on the
    /// list; [`XdpError::Kernel`] if the kernel refuses.
    pub fn stop_denying(&self, prefix: IpNet) -> Result<(), XdpError> {
        self.take_off(|held| &held.deny, &prefix)
    }

    /// Lets a prefix send without limit, unless it is denied.
    ///
    /// # Errors
    /// As [`XdpControls::deny`].
    pub fn allow(&self, prefix: IpNet) -> Result<(), XdpError> {
        self.put_on(|held| &held.allow, &prefix)
    }

    /// Takes a prefix, exactly this one, off the list of those that have no limit.
    ///
    /// # Errors
    /// As [`XdpControls::stop_denying`].
    pub fn stop_allowing(&self, prefix: IpNet) -> Result<(), XdpError> {
        self.take_off(|held| &held.allow, &prefix)
    }

    /// Shows one in so many of the dropped packets of each reason and CPU, or with 0 none.
    ///
    /// # Errors
    /// [`XdpError::Config`] if no samples were configured at loading;
    /// [`XdpError::Kernel`] if the kernel refuses.
    pub fn set_drop_samples(&self, one_in: u32) -> Result<(), XdpError> {
        self.wants("drop_samples", abi::LAMINAR_FEATURE_SAMPLES)?;
        self.change("drop_samples", |values| values.sample_every = one_in)
    }

    /// The samples that wait, oldest first, or those that come within the time; empty if
    /// none came. A sample is given once, to one of those who ask; who asks while somebody
    /// else waits, waits for that one first. Some 1,600 of them can
    /// wait; what is dropped meanwhile is counted, but not shown.
    ///
    /// # Errors
    /// [`XdpError::Config`] if no samples were configured at loading;
    /// [`XdpError::Kernel`] if the kernel refuses.
    pub fn drop_samples(&self, timeout: Duration) -> Result<Vec<DropSample>, XdpError> {
        let samples = &self.wants("drop_samples", abi::LAMINAR_FEATURE_SAMPLES)?.samples;
        let samples = samples.as_ref().ok_or_else(|| is_off("drop_samples"))?;
        let mut ring = samples.lock().unwrap_or_else(PoisonError::into_inner);
        let records = ring.read(timeout).map_err(refused("read samples of dropped packets"))?;
        let (now, monotonic) = (SystemTime::now(), monotonic_now());
        let sample = |record: Vec<u8>| sample(&record, |time| now - monotonic.saturating_sub(time));
        Ok(records.into_iter().filter_map(sample).collect())
    }

    fn held(&self, field: &'static str) -> Result<&Held, XdpError> {
        self.held.as_ref().ok_or_else(|| {
            let problem = "the program is one that another process loaded, and that could not be \
                           replaced; start anew to have one with this configuration";
            XdpError::config(field, problem)
        })
    }

    fn wants(&self, field: &'static str, feature: u32) -> Result<&Held, XdpError> {
        let held = self.held(field)?;
        if held.features & feature != 0 { Ok(held) } else { Err(is_off(field)) }
    }

    fn change(
        &self,
        field: &'static str,
        change: impl FnOnce(&mut Values),
    ) -> Result<(), XdpError> {
        let held = self.held(field)?;
        let mut now = held.now.lock().unwrap_or_else(PoisonError::into_inner);
        let mut values = now.clone();
        change(&mut values);
        // What stays the same is written again, and is the same for whoever reads it.
        held.values.update(0, &values.to_bytes()).map_err(refused("change the controls"))?;
        *now = values;
        Ok(())
    }

    fn list(&self, list: impl FnOnce(&Held) -> &Option<Map>) -> Result<(&Held, &Map), XdpError> {
        let held = self.wants("source_lists", abi::LAMINAR_FEATURE_LISTS)?;
        list(held).as_ref().map(|list| (held, list)).ok_or_else(|| is_off("source_lists"))
    }

    fn put_on(
        &self,
        list: impl FnOnce(&Held) -> &Option<Map>,
        prefix: &IpNet,
    ) -> Result<(), XdpError> {
        let (held, list) = self.list(list)?;
        add(list, prefix).map_err(|reason| match reason.raw_os_error() {
            Some(libc::ENOSPC) => {
                let most = held.max_prefixes;
                let problem = format!(
                    "{prefix} does not go on the list, which holds {most} prefixes; take one off, \
                     or load with a higher max_prefixes"
                );
                XdpError::config("source_lists", problem)
            }
            _ => refused(format!("put {prefix} on a list of sources"))(reason),
        })
    }

    fn take_off(
        &self,
        list: impl FnOnce(&Held) -> &Option<Map>,
        prefix: &IpNet,
    ) -> Result<(), XdpError> {
        let (_, list) = self.list(list)?;
        list.delete(&prefix_key(prefix)).map_err(|reason| match reason.raw_os_error() {
            Some(libc::ENOENT) => {
                XdpError::config("source_lists", format!("{prefix} is not on the list"))
            }
            _ => refused(format!("take {prefix} off a list of sources"))(reason),
        })
    }
}

fn is_off(field: &'static str) -> XdpError {
    XdpError::config(field, "it was not configured when the program was loaded; load it with it")
}

fn refused(action: impl Into<String>) -> impl FnOnce(io::Error) -> XdpError {
    let action = action.into();
    |reason| XdpError::Kernel { action, reason }
}

/// Reads a `struct laminar_sample`; none if it is not one.
fn sample(record: &[u8], wall_clock: impl FnOnce(Duration) -> SystemTime) -> Option<DropSample> {
    let bytes = |at: usize, length: usize| record.get(at..at.checked_add(length)?);
    let number = |at| Some(u32::from_ne_bytes(bytes(at, 4)?.try_into().ok()?));
    let time = bytes(offset_of!(abi::laminar_sample, time), 8)?.try_into().ok()?;
    let captured = number(offset_of!(abi::laminar_sample, captured))? as usize;
    Some(DropSample {
        time: wall_clock(Duration::from_nanos(u64::from_ne_bytes(time))),
        reason: XdpReason::of_number(number(offset_of!(abi::laminar_sample, reason))?)?,
        length: number(offset_of!(abi::laminar_sample, length))?,
        packet: bytes(offset_of!(abi::laminar_sample, packet), captured)?.to_vec(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_are_those_that_are_configured() {
        let new = XdpConfig::builder;
        assert_eq!(features(&new().build().unwrap()), 0);
        let all = new()
            .more_ports([1])
            .drop_samples(1)
            .source_lists(crate::SourceLists::default())
            .source_limit(SourceLimit { packets_per_second: 1, burst: 1 });
        assert_eq!(features(&all.build().unwrap()), 15);
    }

    #[test]
    fn a_prefix_is_family_and_address_in_network_order() {
        let key = |text: &str| prefix_key(&text.parse().unwrap());
        let ipv4 = key("192.0.2.129/25");
        assert_eq!(ipv4[..4], (32u32 + 25).to_ne_bytes());
        assert_eq!(ipv4[4..8], 4u32.to_ne_bytes());
        assert_eq!(ipv4[8..12], [192, 0, 2, 128], "bits behind the prefix are gone");
        assert_eq!(ipv4[12..], [0; 12]);
        let ipv6 = key("2001:db8::1/128");
        assert_eq!(ipv6[..4], 160u32.to_ne_bytes());
        assert_eq!(ipv6[8..12], [0x20, 0x01, 0x0d, 0xb8]);
    }

    #[test]
    fn a_record_that_is_cut_short_is_no_sample() {
        let mut record = [0u8; size_of::<abi::laminar_sample>()];
        let captured = offset_of!(abi::laminar_sample, captured);
        record[captured..captured + 4].copy_from_slice(&128u32.to_ne_bytes());
        let read = |record: &[u8]| sample(record, |time| SystemTime::UNIX_EPOCH + time);
        assert_eq!(read(&record).unwrap().packet.len(), 128);
        for length in 0..record.len() {
            assert_eq!(read(&record[..length]), None, "{length}");
        }
        record[captured] = 129;
        assert_eq!(read(&record), None, "more than there is");
        record[captured] = 0;
        let reason = offset_of!(abi::laminar_sample, reason);
        record[reason] = 200;
        assert_eq!(read(&record), None, "no reason");
    }
}
