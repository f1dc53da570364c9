//! The controls of a running program: changes its ports, limits and source lists, and reads
//! samples of dropped packets.

use std::mem::offset_of;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use ipnet::IpNet;
use laminar_xdp_prebuilt::abi;

use crate::config::checks::check_ports;
use crate::config::{ConfigError, SourceLimit, XdpConfig};
use crate::object::{ControlMaps, ControlValues, LISTED, prefix_key};
use crate::report::{DropSample, XdpError, XdpReason};
use crate::sync::lock;
use crate::sys::map::Map;
use crate::sys::ring_buffer::RingBuffer;
use crate::sys::thread::monotonic_now;

/// Changes the filters of the running program, and reads samples of the packets that it drops.
///
/// A change takes effect from the next packet on. Each change is atomic, so there is no moment
/// without a limit or a list. There is one exception. If a change moves a port to another position
/// in the list of ports, packets to that port may pass unfiltered for nanoseconds.
///
/// The changes are lost when the program is replaced. A process that takes over
/// ([`crate::Ingest::take_over`]) starts with its own configuration and with full token
/// buckets.
///
/// ```no_run
/// # use laminar_xdp::{SourceLimit, XdpError, XdpLoader};
/// # fn f(loader: &XdpLoader) -> Result<(), Box<dyn std::error::Error>> {
/// let controls = loader.controls();
/// controls.deny("198.51.100.0/24".parse()?)?;
/// controls.set_source_limit(SourceLimit::per_second(500).burst(50))?;
/// match controls.remove_deny("203.0.113.0/24".parse()?) {
///     Err(XdpError::NotListed { .. }) => {} // it was not denied
///     other => other?,
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct XdpControls {
    /// `None` for a program that another process loaded.
    own: Option<Own>,
}

#[derive(Debug)]
struct Own {
    features: u32,
    several_ports: bool,
    max_prefixes: u32,
    /// Holds the values of `current` as `struct laminar_controls`.
    map: Map,
    current: Mutex<ControlValues>,
    deny: Option<Map>,
    allow: Option<Map>,
    samples: Option<Mutex<RingBuffer>>,
}

/// A source list: its name in messages, and the function that returns its map.
struct List {
    name: &'static str,
    map: fn(&Own) -> &Option<Map>,
}

const DENY: List = List { name: "deny", map: |own| &own.deny };
const ALLOW: List = List { name: "allow", map: |own| &own.allow };

impl XdpControls {
    /// The controls of a program that was loaded with `config`; `maps` is `None` for a
    /// program that another process loaded.
    pub(crate) fn new(maps: Option<ControlMaps>, config: &XdpConfig) -> XdpControls {
        let own = maps.map(|maps| Own {
            features: maps.features,
            several_ports: maps.several_ports,
            max_prefixes: config.max_prefixes,
            map: maps.values,
            current: Mutex::new(ControlValues::initial(config)),
            deny: maps.deny,
            allow: maps.allow,
            samples: maps.samples,
        });
        XdpControls { own }
    }

    /// The ports that are filtered and steered, the configured `port` first.
    ///
    /// # Errors
    /// [`XdpError::ForeignProgram`] if an earlier process loaded the program and this process
    /// could not replace it. In this case all other methods return the same error.
    pub fn ports(&self) -> Result<Vec<u16>, XdpError> {
        Ok(self.own()?.current().ports.clone())
    }

    /// Replaces the list of ports that are filtered and steered. The new list must have 1 to 16
    /// ports. [`crate::Ingest`] still receives only on the port with which it was opened.
    ///
    /// # Errors
    /// [`XdpError::Config`] for port 0, a duplicate or too many ports. [`XdpError::FeatureOff`]
    /// for more than one port if the program was loaded for a single port: to be faster, such a
    /// program checks only the first port. [`XdpError::Kernel`] if the kernel refuses.
    pub fn set_ports(&self, ports: &[u16]) -> Result<(), XdpError> {
        self.change_ports(|_| Ok(ports.to_vec()))
    }

    /// Adds a port to those that are filtered and steered. At most 16 ports are possible.
    ///
    /// # Errors
    /// Those of [`XdpControls::set_ports`]. [`XdpError::Config`] also if the port is filtered
    /// already.
    pub fn add_port(&self, port: u16) -> Result<(), XdpError> {
        self.change_ports(|current| Ok([current, &[port]].concat()))
    }

    /// Stops filtering and steering a port. Its packets then pass.
    ///
    /// # Errors
    /// [`XdpError::Config`] if the port is not filtered, or if no other port is filtered.
    /// [`XdpError::Kernel`] if the kernel refuses.
    pub fn remove_port(&self, port: u16) -> Result<(), XdpError> {
        self.change_ports(|current| {
            let rest: Vec<_> = current.iter().copied().filter(|other| *other != port).collect();
            match rest.len() < current.len() {
                true => Ok(rest),
                false => Err(ConfigError::new("ports", format!("{port} is not filtered")).into()),
            }
        })
    }

    /// Replaces the limit of each source. A source's token bucket stores the time until the bucket
    /// is full again. After a change of the rate, the same time stands for another number of
    /// packets, but never for more than a full bucket.
    ///
    /// # Errors
    /// [`XdpError::Config`] for a limit out of range, [`XdpError::FeatureOff`] if no limit was
    /// configured at loading, [`XdpError::Kernel`] if the kernel refuses.
    pub fn set_source_limit(&self, limit: SourceLimit) -> Result<(), XdpError> {
        limit.check()?;
        let own = self.own_with("source_limit", abi::LAMINAR_FEATURE_LIMIT)?;
        own.change(|values| values.limit = Some(limit))
    }

    /// Drops every packet that a source in this prefix sends to a filtered port.
    ///
    /// # Errors
    /// [`XdpError::FeatureOff`] if no lists were configured at loading,
    /// [`XdpError::ListFull`] if the list is full, [`XdpError::Kernel`] if the kernel
    /// refuses. After an error the list is unchanged. Before Linux 6.13 a full list also
    /// refuses a prefix that it holds already.
    pub fn deny(&self, prefix: IpNet) -> Result<(), XdpError> {
        self.add(&DENY, prefix)
    }

    /// Removes exactly this prefix from the list of denied sources.
    ///
    /// # Errors
    /// [`XdpError::FeatureOff`] if no lists were configured at loading,
    /// [`XdpError::NotListed`] if the prefix is not on the list, [`XdpError::Kernel`] if
    /// the kernel refuses.
    pub fn remove_deny(&self, prefix: IpNet) -> Result<(), XdpError> {
        self.remove(&DENY, prefix)
    }

    /// Exempts a prefix from the limit. A denied prefix stays denied.
    ///
    /// # Errors
    /// Those of [`XdpControls::deny`].
    pub fn allow(&self, prefix: IpNet) -> Result<(), XdpError> {
        self.add(&ALLOW, prefix)
    }

    /// Removes exactly this prefix from the list of sources without a limit.
    ///
    /// # Errors
    /// Those of [`XdpControls::remove_deny`].
    pub fn remove_allow(&self, prefix: IpNet) -> Result<(), XdpError> {
        self.remove(&ALLOW, prefix)
    }

    /// Sets the sampling rate: for each reason and CPU, the program samples one in `one_in`
    /// dropped packets. With 0 the program samples no packets.
    ///
    /// # Errors
    /// [`XdpError::FeatureOff`] if no samples were configured at loading,
    /// [`XdpError::Kernel`] if the kernel refuses.
    pub fn set_drop_samples(&self, one_in: u32) -> Result<(), XdpError> {
        let own = self.own_with("drop_samples", abi::LAMINAR_FEATURE_SAMPLES)?;
        own.change(|values| values.sample_every = one_in)
    }

    /// Returns the waiting samples, oldest first. If no sample is waiting, blocks until a sample
    /// arrives or the timeout ends. The result is empty if no sample arrived. A timeout of zero
    /// never blocks.
    ///
    /// Each sample is returned once. Concurrent callers are serialized. About 1,600 samples can
    /// wait. While that many samples wait, dropped packets are counted but not sampled.
    ///
    /// # Errors
    /// [`XdpError::FeatureOff`] if no samples were configured at loading, [`XdpError::Kernel`] if
    /// the kernel refuses.
    pub fn drop_samples(&self, timeout: Duration) -> Result<Vec<DropSample>, XdpError> {
        let feature = "drop_samples";
        let samples = &self.own_with(feature, abi::LAMINAR_FEATURE_SAMPLES)?.samples;
        let samples = samples.as_ref().ok_or(XdpError::FeatureOff { feature })?;
        let records: Vec<Vec<u8>> = lock(samples)
            .read(timeout)
            .map_err(|error| XdpError::kernel("read samples of dropped packets", error))?;
        let (now, monotonic) = (SystemTime::now(), monotonic_now());
        let wall_clock = |time| now - monotonic.saturating_sub(time);
        Ok(records.into_iter().filter_map(|record| parse_sample(&record, wall_clock)).collect())
    }

    fn own(&self) -> Result<&Own, XdpError> {
        self.own.as_ref().ok_or(XdpError::ForeignProgram)
    }

    /// The controls of a program that was loaded with a feature.
    fn own_with(&self, feature: &'static str, bit: u32) -> Result<&Own, XdpError> {
        let own = self.own()?;
        match own.features & bit {
            0 => Err(XdpError::FeatureOff { feature }),
            _ => Ok(own),
        }
    }

    fn change_ports(
        &self,
        change: impl FnOnce(&[u16]) -> Result<Vec<u16>, XdpError>,
    ) -> Result<(), XdpError> {
        let own = self.own()?;
        let mut current = own.current();
        let ports = change(&current.ports)?;
        check_ports("ports", &ports)?;
        if ports.len() > 1 && !own.several_ports {
            return Err(XdpError::FeatureOff { feature: "more_ports" });
        }
        own.write(&mut current, |values| values.ports = ports)
    }

    fn add(&self, list: &List, prefix: IpNet) -> Result<(), XdpError> {
        let (own, map) = self.list(list)?;
        let name = list.name;
        map.put(&prefix_key(&prefix), &LISTED).map_err(|error| match error.raw_os_error() {
            Some(libc::ENOSPC) => {
                XdpError::ListFull { list: name, prefix, max_prefixes: own.max_prefixes }
            }
            _ => XdpError::kernel(format!("add {prefix} to the {name} list"), error),
        })
    }

    fn remove(&self, list: &List, prefix: IpNet) -> Result<(), XdpError> {
        let (_, map) = self.list(list)?;
        let name = list.name;
        map.delete(&prefix_key(&prefix)).map_err(|error| match error.raw_os_error() {
            Some(libc::ENOENT) => XdpError::NotListed { list: name, prefix },
            _ => XdpError::kernel(format!("remove {prefix} from the {name} list"), error),
        })
    }

    fn list(&self, list: &List) -> Result<(&Own, &Map), XdpError> {
        let feature = "source_lists";
        let own = self.own_with(feature, abi::LAMINAR_FEATURE_LISTS)?;
        let map = (list.map)(own).as_ref().ok_or(XdpError::FeatureOff { feature })?;
        Ok((own, map))
    }
}

impl Own {
    fn current(&self) -> MutexGuard<'_, ControlValues> {
        lock(&self.current)
    }

    fn change(&self, change: impl FnOnce(&mut ControlValues)) -> Result<(), XdpError> {
        self.write(&mut self.current(), change)
    }

    /// Writes all values, even the unchanged ones. Writing an unchanged value is safe while the
    /// program reads it.
    fn write(
        &self,
        current: &mut ControlValues,
        change: impl FnOnce(&mut ControlValues),
    ) -> Result<(), XdpError> {
        let mut values = current.clone();
        change(&mut values);
        let written = self.map.update(0, &values.to_bytes());
        written.map_err(|error| XdpError::kernel("change the controls", error))?;
        *current = values;
        Ok(())
    }
}

/// Reads a `struct laminar_sample`; `None` if the record is not one.
fn parse_sample(
    record: &[u8],
    wall_clock: impl FnOnce(Duration) -> SystemTime,
) -> Option<DropSample> {
    let bytes = |offset: usize, length: usize| record.get(offset..offset.checked_add(length)?);
    let number = |offset| Some(u32::from_ne_bytes(bytes(offset, 4)?.try_into().ok()?));
    let time = bytes(offset_of!(abi::laminar_sample, time), 8)?.try_into().ok()?;
    let captured = number(offset_of!(abi::laminar_sample, captured))? as usize;
    let packet = bytes(offset_of!(abi::laminar_sample, packet), captured)?;
    Some(DropSample::new(
        wall_clock(Duration::from_nanos(u64::from_ne_bytes(time))),
        XdpReason::from_number(number(offset_of!(abi::laminar_sample, reason))?)?,
        number(offset_of!(abi::laminar_sample, length))?,
        packet.to_vec(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_truncated_or_inconsistent_record_is_not_a_sample() {
        let mut record = [0u8; size_of::<abi::laminar_sample>()];
        let captured = offset_of!(abi::laminar_sample, captured);
        record[captured..captured + 4].copy_from_slice(&128u32.to_ne_bytes());
        let read = |record: &[u8]| parse_sample(record, |time| SystemTime::UNIX_EPOCH + time);
        assert_eq!(read(&record).unwrap().packet.len(), 128);
        for length in 0..record.len() {
            assert_eq!(read(&record[..length]), None, "{length}");
        }
        record[captured] = 129;
        assert_eq!(read(&record), None, "more bytes than the record has");
        record[captured] = 0;
        let reason = offset_of!(abi::laminar_sample, reason);
        record[reason] = 200;
        assert_eq!(read(&record), None, "an unknown reason");
    }
}
