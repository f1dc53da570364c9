//! How `Ingest` opens its sockets.

use std::net::{IpAddr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use crate::config::ConfigError;
use crate::config::checks::check_cpu_list;

/// Sets which CPUs own partitions, and how their sockets are opened.
/// [`XdpConfig`](crate::XdpConfig) sets the port and the number of partitions.
///
/// ```
/// use laminar_xdp::IngestConfig;
/// use std::net::Ipv4Addr;
///
/// let config = IngestConfig::new(0..4).address(Ipv4Addr::LOCALHOST).receive_buffer(8 << 20);
/// assert_eq!(config.cpus, [0, 1, 2, 3]);
/// config.validate()?;
/// # Ok::<(), laminar_xdp::ConfigError>(())
/// ```
///
/// In a file only `cpus` is required, and unknown keys are refused:
///
/// ```
/// let config: laminar_xdp::IngestConfig = toml::from_str(
///     r#"
///     cpus = [2, 3]
///     address = "192.0.2.1"
///     "#,
/// )?;
/// assert_eq!(config.receive_buffer, 4 << 20);
/// # Ok::<(), toml::de::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct IngestConfig {
    /// Ids of the CPUs that own partitions, as in `/sys/devices/system/cpu/cpu3`. Each CPU must
    /// be online and listed once. Each CPU gets a socket. The first owner of partition `p` is
    /// `cpus[p % cpus.len()]`.
    pub cpus: Vec<u32>,
    /// The local address of the sockets. Default: `::`, which receives at every IPv4 and IPv6
    /// address of the machine.
    #[serde(default = "default_address")]
    pub address: IpAddr,
    /// Size of each socket's receive buffer in bytes as `SO_RCVBUF` counts them, 1 to 2^30.
    /// Default: 4 MiB.
    ///
    /// In the buffer, a datagram takes about 400 bytes more than its length. A buffer larger than
    /// `net.core.rmem_max` needs CAP_NET_ADMIN. Without that capability the kernel grants a
    /// smaller buffer, and one warning is logged.
    /// [`Ingest::receive_buffer`](crate::Ingest::receive_buffer) returns the granted size.
    #[serde(default = "default_receive_buffer")]
    pub receive_buffer: u32,
}

fn default_address() -> IpAddr {
    Ipv6Addr::UNSPECIFIED.into()
}

fn default_receive_buffer() -> u32 {
    4 << 20
}

impl IngestConfig {
    /// The largest receive buffer in bytes. The kernel doubles the value, and the result must
    /// fit into an `int`.
    pub const MAX_RECEIVE_BUFFER: u32 = 1 << 30;

    /// Returns the defaults for these CPUs. Ranges, arrays and vectors work:
    ///
    /// ```
    /// use laminar_xdp::IngestConfig;
    ///
    /// assert_eq!(IngestConfig::new(0..2), IngestConfig::new([0, 1]));
    /// assert_eq!(IngestConfig::new(0..2), IngestConfig::new(vec![0, 1]));
    /// ```
    pub fn new(cpus: impl IntoIterator<Item = u32>) -> IngestConfig {
        IngestConfig {
            cpus: cpus.into_iter().collect(),
            address: default_address(),
            receive_buffer: default_receive_buffer(),
        }
    }

    /// Sets [`IngestConfig::address`].
    #[must_use]
    pub fn address(mut self, address: impl Into<IpAddr>) -> Self {
        self.address = address.into();
        self
    }

    /// Sets [`IngestConfig::receive_buffer`] in bytes.
    #[must_use]
    pub fn receive_buffer(mut self, bytes: u32) -> Self {
        self.receive_buffer = bytes;
        self
    }

    /// Checks every field that can be judged without asking the machine.
    /// [`Ingest::open`](crate::Ingest::open) calls this method, and also checks that the CPUs are
    /// online.
    ///
    /// # Errors
    /// [`ConfigError`] names the first field whose value cannot be used, and the allowed
    /// values.
    pub fn validate(&self) -> Result<(), ConfigError> {
        check_cpu_list(&self.cpus)?;
        let max = Self::MAX_RECEIVE_BUFFER;
        if !(1..=max).contains(&self.receive_buffer) {
            let problem = format!("{} bytes are out of range; use 1 to {max}", self.receive_buffer);
            return Err(ConfigError::new("receive_buffer", problem));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus_come_from_ranges_arrays_and_vectors() {
        assert_eq!(IngestConfig::new(0..4).cpus, [0, 1, 2, 3]);
        assert_eq!(IngestConfig::new([3, 1]).cpus, [3, 1]);
        assert_eq!(IngestConfig::new(vec![7]).cpus, [7]);
    }

    #[test]
    fn unusable_values_are_refused_with_the_name_of_their_field() {
        let field = |config: IngestConfig| config.validate().map_err(|error| error.field());
        assert_eq!(field(IngestConfig::new([])), Err("cpus"));
        assert_eq!(field(IngestConfig::new([0, 1, 0])), Err("cpus"));
        assert_eq!(field(IngestConfig::new([0]).receive_buffer(0)), Err("receive_buffer"));
        let too_large = IngestConfig::MAX_RECEIVE_BUFFER + 1;
        assert_eq!(field(IngestConfig::new([0]).receive_buffer(too_large)), Err("receive_buffer"));
        assert_eq!(field(IngestConfig::new([0]).receive_buffer(1)), Ok(()));
        let largest = IngestConfig::MAX_RECEIVE_BUFFER;
        assert_eq!(field(IngestConfig::new([0]).receive_buffer(largest)), Ok(()));
    }

    #[test]
    fn a_configuration_survives_a_serde_round_trip() {
        let config = IngestConfig::new([0, 2]).address([192, 0, 2, 1]).receive_buffer(1 << 20);
        let text = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<IngestConfig>(&text).unwrap(), config);
    }

    #[test]
    fn a_file_needs_only_the_cpus() {
        let config: IngestConfig = toml::from_str("cpus = [0, 1]").unwrap();
        assert_eq!(config, IngestConfig::new(0..2));
        let missing = toml::from_str::<IngestConfig>("address = \"::1\"").unwrap_err().to_string();
        assert!(missing.contains("cpus"), "{missing}");
        let unknown = toml::from_str::<IngestConfig>("cpus = [0]\ncores = [1]").unwrap_err();
        assert!(unknown.to_string().contains("unknown field"), "{unknown}");
    }
}
