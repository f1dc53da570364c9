//! The configuration of the loader and of `Ingest`, and its checks. The checks run before
//! anything on the machine changes.

mod attach_mode;
mod builder;
pub(crate) mod checks;
mod error;
mod ingest;
mod sources;

use std::path::PathBuf;

use laminar_xdp_prebuilt::abi;
use serde::{Deserialize, Serialize};

use checks::{check_port_count, check_port_values, check_range, is_interface_name};

pub use attach_mode::XdpAttachMode;
pub use builder::XdpConfigBuilder;
pub use error::ConfigError;
pub use ingest::IngestConfig;
pub use sources::{SourceLimit, SourceLists};

/// Says which XDP program to load, where to attach it, and what it filters.
///
/// Build the configuration with [`XdpConfig::builder`], or read it from a file with serde. Omitted
/// fields keep their defaults.
///
/// ```
/// use laminar_xdp::XdpConfig;
///
/// let config = XdpConfig::builder().enabled(true).interface("eth1").partitions(128).build()?;
/// assert_eq!(config.port, 9999);
/// # Ok::<(), laminar_xdp::ConfigError>(())
/// ```
///
/// # From a file
/// Keys have the names of the fields. An unknown key is an error, so a misspelt key is not silently
/// ignored. Reading a file does not check the values. [`XdpLoader::load_and_attach`] and
/// [`Ingest::open`] check them. To check the values earlier, call [`XdpConfig::validate`].
///
/// ```
/// use laminar_xdp::{IngestConfig, SourceLimit, XdpConfig};
///
/// #[derive(serde::Deserialize)]
/// struct Settings {
///     xdp: XdpConfig,
///     ingest: IngestConfig,
/// }
///
/// let settings: Settings = toml::from_str(
///     r#"
///     [xdp]
///     enabled = true
///     interface = "eth1"
///     more_ports = [10000, 10001]
///     attach_mode = "native"
///     source_limit = { packets_per_second = 10000, burst = 500 }
///     source_lists = { deny = ["198.51.100.0/24"], allow = ["192.0.2.7/32"] }
///
///     [ingest]
///     cpus = [0, 1, 2, 3]
///     "#,
/// )?;
/// settings.xdp.validate()?;
/// settings.ingest.validate()?;
/// assert_eq!(settings.xdp.source_limit, Some(SourceLimit::per_second(10_000).burst(500)));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// [`XdpLoader::load_and_attach`]: crate::XdpLoader::load_and_attach
/// [`Ingest::open`]: crate::Ingest::open
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct XdpConfig {
    /// Whether to use XDP. Default: false.
    pub enabled: bool,
    /// Where the BPF objects are. Default: `/usr/share/laminardb/laminar_xdp.o`.
    ///
    /// | the path is | objects used |
    /// |---|---|
    /// | a folder with a manifest | the folder's set |
    /// | an object that a manifest in the same folder lists | that folder's set |
    /// | an object that no manifest lists | this object alone, with a warning |
    /// | missing | the set that is embedded in this crate (feature `embedded`) |
    ///
    /// From a set, the loader uses the best object that the running kernel supports.
    pub bpf_object_path: PathBuf,
    /// Name of the network interface, 1 to 15 bytes, in the network namespace of the calling
    /// thread. Default: `eth0`.
    pub interface: String,
    /// Further interfaces, up to 15. Default: none.
    ///
    /// Several interfaces are not supported yet: [`XdpConfig::validate`] refuses a list that
    /// is not empty.
    pub more_interfaces: Vec<String>,
    /// The UDP destination port to filter, 1 to 65535. [`Ingest`](crate::Ingest) receives on
    /// this port. Default: 9999.
    ///
    /// 0 is allowed if `enabled` is false. [`Ingest`](crate::Ingest) then receives on a free
    /// port, for example in tests. [`Ingest::port`](crate::Ingest::port) returns that port.
    pub port: u16,
    /// Further UDP destination ports, up to 15. XDP filters and steers packets to these ports in
    /// the same way. [`Ingest`](crate::Ingest) does not receive on these ports: the application
    /// binds its own sockets. Default: none.
    pub more_ports: Vec<u16>,
    /// Where in the kernel the program runs. Default: [`XdpAttachMode::Auto`].
    pub attach_mode: XdpAttachMode,
    /// Number of packets that the queue of one CPU can hold, 1 to 16,384. A packet for a full
    /// queue is lost. Default: 2048.
    pub cpu_queue_size: u32,
    /// Number of partitions, 1 to 65,536 and a multiple of the number of CPUs.
    /// Default: `None`, which means the smallest multiple of the number of CPUs that is at
    /// least 64.
    pub partitions: Option<u32>,
    /// How many datagrams each source may send. Default: `None`, no limit and no cost.
    ///
    /// Minimum kernel: Linux 5.9, because only the objects linux-5.9 and linux-5.18 support
    /// `source_limit`, `source_lists` and `drop_samples`. Sockets without XDP enforce no
    /// limits.
    pub source_limit: Option<SourceLimit>,
    /// Sources that are denied, and sources that have no limit. Default: `None`, which loads the
    /// program without lists, so prefixes cannot be added later. To add prefixes later with
    /// [`XdpControls::deny`](crate::XdpControls::deny) and
    /// [`XdpControls::allow`](crate::XdpControls::allow), configure empty lists. Minimum kernel:
    /// Linux 5.9. Sockets without XDP enforce no lists.
    pub source_lists: Option<SourceLists>,
    /// Number of sources whose token buckets are remembered, 1 to 16,777,216. The loader raises
    /// this number to at least 256 for each possible CPU. Default: 65,536.
    ///
    /// Each source takes about 120 bytes of kernel memory, and twice that while the loader tries a
    /// second object. If more sources send, the kernel forgets sources that have not sent for long.
    /// A forgotten source starts with a full bucket, so a full table never causes a drop. The
    /// kernel reserves free entries for each CPU, and may therefore start to forget sources when
    /// the table is half full.
    pub max_sources: u32,
    /// Number of prefixes that each of the two source lists can hold, 1 to 1,048,576. Each
    /// prefix on a list takes about 100 bytes of kernel memory. Default: 1,024.
    pub max_prefixes: u32,
    /// Samples one in this many dropped packets of each reason on each CPU, beginning with the
    /// first. [`XdpControls::drop_samples`](crate::XdpControls::drop_samples) returns the
    /// samples. 1 samples every dropped packet; 0 is refused. Default: `None`, no samples.
    /// Minimum kernel: Linux 5.9.
    pub drop_samples: Option<u32>,
    /// Uses the object of this kernel target only, for example `linux-5.9`.
    /// Default: `None`, the best object that the kernel supports.
    pub force_target: Option<String>,
    /// Whether [`Ingest::open`](crate::Ingest::open) continues with sockets alone if XDP
    /// fails. Default: true.
    pub fallback_on_error: bool,
}

impl Default for XdpConfig {
    fn default() -> Self {
        Self {
            enabled: false,
            bpf_object_path: PathBuf::from("/usr/share/laminardb/laminar_xdp.o"),
            interface: "eth0".into(),
            more_interfaces: Vec::new(),
            port: abi::LAMINAR_DEFAULT_PORT as u16,
            more_ports: Vec::new(),
            attach_mode: XdpAttachMode::Auto,
            cpu_queue_size: 2048,
            partitions: None,
            source_limit: None,
            source_lists: None,
            max_sources: 65_536,
            max_prefixes: 1024,
            drop_samples: None,
            force_target: None,
            fallback_on_error: true,
        }
    }
}

// Numbers have plain parameter types. With `impl Into<u16>`, a literal such as `.port(9999)` would
// be an `i32`, which does not compile.
builder::setters! {
    enabled(bool) => enabled;
    bpf_object_path(impl Into<PathBuf>) => bpf_object_path.into();
    interface(impl Into<String>) => interface.into();
    more_interfaces(impl IntoIterator<Item = impl Into<String>>)
        => more_interfaces.into_iter().map(Into::into).collect();
    port(u16) => port;
    more_ports(impl IntoIterator<Item = u16>) => more_ports.into_iter().collect();
    attach_mode(XdpAttachMode) => attach_mode;
    cpu_queue_size(u32) => cpu_queue_size;
    partitions(u32) => Some(partitions);
    source_limit(SourceLimit) => Some(source_limit);
    source_lists(SourceLists) => Some(source_lists);
    max_sources(u32) => max_sources;
    max_prefixes(u32) => max_prefixes;
    drop_samples(u32) => Some(drop_samples);
    force_target(impl Into<String>) => Some(force_target.into());
    fallback_on_error(bool) => fallback_on_error;
}

impl XdpConfig {
    /// Largest size of a CPU's queue in packets. The kernel refuses larger queues (`EOVERFLOW`).
    pub const MAX_CPU_QUEUE_SIZE: u32 = 16_384;
    /// Largest number of partitions.
    pub const MAX_PARTITIONS: u32 = 65_536;
    /// Largest number of ports that can be filtered, [`XdpConfig::port`] included.
    pub const MAX_PORTS: usize = abi::LAMINAR_MAX_PORTS as usize;
    /// Largest number of sources that can be remembered.
    pub const MAX_SOURCES: u32 = 1 << 24;
    /// Largest number of prefixes that a list can hold.
    pub const MAX_PREFIXES: u32 = 1 << 20;

    /// Returns a builder that starts from the defaults.
    pub fn builder() -> XdpConfigBuilder {
        XdpConfigBuilder::default()
    }

    /// Checks every field that can be judged without asking the machine.
    /// [`XdpLoader::load_and_attach`](crate::XdpLoader::load_and_attach) and
    /// [`Ingest::open`](crate::Ingest::open) call this method before they do anything else.
    ///
    /// # Errors
    /// [`ConfigError`] names the first field whose value cannot be used, and the allowed
    /// values.
    ///
    /// ```
    /// use laminar_xdp::XdpConfig;
    ///
    /// let mut config = XdpConfig::default();
    /// config.cpu_queue_size = 100_000;
    /// assert_eq!(config.validate().unwrap_err().field(), "cpu_queue_size");
    /// ```
    pub fn validate(&self) -> Result<(), ConfigError> {
        if !is_interface_name(&self.interface) {
            return Err(ConfigError::new(
                "interface",
                format!(
                    "{:?} is not a valid interface name; use 1 to 15 bytes without '/', ':' and \
                     white space (`ip link` lists the interfaces)",
                    self.interface
                ),
            ));
        }
        if !self.more_interfaces.is_empty() {
            return Err(ConfigError::new(
                "more_interfaces",
                "several interfaces are not supported yet; configure one",
            ));
        }
        self.check_own_ports()?;
        if let Some(limit) = self.source_limit {
            limit.check()?;
        }
        self.check_lists()?;
        if self.drop_samples == Some(0) {
            let problem = "one in 0 packets cannot be sampled; use 1 for every packet, or leave \
                           the field out for none";
            return Err(ConfigError::new("drop_samples", problem));
        }
        for (field, value, max) in self.ranges() {
            value.map_or(Ok(()), |value| check_range(field, value, max))?;
        }
        if self.attach_mode == XdpAttachMode::Offload {
            return Err(ConfigError::new(
                "attach_mode",
                "a program on the network card cannot redirect packets to CPUs of this machine; \
                 use auto, native or generic",
            ));
        }
        Ok(())
    }

    /// The fields that must be between 1 and a maximum: name, value and maximum.
    fn ranges(&self) -> [(&'static str, Option<u32>, u32); 4] {
        [
            ("max_sources", Some(self.max_sources), Self::MAX_SOURCES),
            ("max_prefixes", Some(self.max_prefixes), Self::MAX_PREFIXES),
            ("cpu_queue_size", Some(self.cpu_queue_size), Self::MAX_CPU_QUEUE_SIZE),
            ("partitions", self.partitions, Self::MAX_PARTITIONS),
        ]
    }

    /// All ports: `port` first, then `more_ports`.
    pub(crate) fn ports(&self) -> Vec<u16> {
        [self.port].into_iter().chain(self.more_ports.iter().copied()).collect()
    }

    fn check_own_ports(&self) -> Result<(), ConfigError> {
        if self.port == 0 && self.enabled {
            return Err(ConfigError::new(
                "port",
                "XDP cannot filter port 0; use 1 to 65535 (LaminarDB's port is 9999)",
            ));
        }
        let ports = self.ports();
        check_port_count("more_ports", &ports)?;
        // Port 0 means that the kernel chooses a free port later, so 0 is not checked.
        check_port_values("more_ports", if self.port == 0 { &ports[1..] } else { &ports })
    }

    fn check_lists(&self) -> Result<(), ConfigError> {
        let max = self.max_prefixes as usize;
        for list in self.source_lists.iter().flat_map(|lists| [&lists.deny, &lists.allow]) {
            if list.len() > max {
                let problem = format!(
                    "a list has {} prefixes, but `max_prefixes` is {max}; raise `max_prefixes`",
                    list.len()
                );
                return Err(ConfigError::new("source_lists", problem));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
