//! What a user can choose, and which choices are refused.

use std::fmt;
use std::path::PathBuf;

use laminar_xdp_prebuilt::abi;

use crate::error::XdpError;
use crate::sources::{SourceLimit, SourceLists};

/// Where in the kernel the program runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum XdpAttachMode {
    /// Native if driver and MTU allow it, else generic.
    #[default]
    Auto,
    /// In the driver, before the kernel spends anything on a packet.
    Native,
    /// In the network stack, for drivers without XDP. It costs more than native
    /// and less than plain sockets.
    Generic,
    /// On the network card. Always refused: no card can redirect to a CPU map.
    Offload,
}

impl fmt::Display for XdpAttachMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            XdpAttachMode::Auto => "auto",
            XdpAttachMode::Native => "native",
            XdpAttachMode::Generic => "generic",
            XdpAttachMode::Offload => "offload",
        })
    }
}

/// How to load and attach the program.
///
/// ```
/// use laminar_xdp::XdpConfig;
///
/// let config = XdpConfig::builder().enabled(true).interface("eth1").partitions(128).build()?;
/// assert_eq!(config.port, 9999);
/// # Ok::<(), laminar_xdp::XdpError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct XdpConfig {
    /// Whether to use XDP at all. Default: false.
    pub enabled: bool,
    /// A folder with a manifest, or an object. An object that stands beside a
    /// manifest which lists it stands for that whole set, of which the best one
    /// for the kernel is taken; an object alone is used as it is, with a
    /// warning. Where nothing exists at the path, the embedded objects serve.
    /// Default: `/usr/share/laminardb/laminar_xdp.o`.
    pub bpf_object_path: PathBuf,
    /// Name of the network interface, at most 15 bytes. Default: `eth0`.
    pub interface: String,
    /// The UDP destination port to filter, 1 to 65535. [`crate::Ingest`] receives on it.
    /// Default: 9999.
    pub port: u16,
    /// Up to 15 further ports, which XDP filters and steers alike; whoever wants what
    /// comes there binds them. Default: none.
    pub more_ports: Vec<u16>,
    /// Default: [`XdpAttachMode::Auto`].
    pub attach_mode: XdpAttachMode,
    /// Packets that a CPU's queue holds, 1 to 16384. A packet for a full queue
    /// is lost. Default: 2048.
    pub cpu_queue_size: u32,
    /// Number of partitions, 1 to 65536 and a multiple of the number of cores.
    /// Default: `None`, the smallest such multiple from 64 on.
    pub partitions: Option<u32>,
    /// How much each source may send, in XDP. Default: `None`, no limit, which costs
    /// nothing. Where it is wanted, only the objects linux-5.9 and linux-5.18 serve; the
    /// same goes for `source_lists` and `drop_samples`.
    pub source_limit: Option<SourceLimit>,
    /// Sources that are denied, and those that have no limit, in XDP. Default: `None`, no
    /// lists, not even ones that can be filled later.
    pub source_lists: Option<SourceLists>,
    /// Sources whose buckets are remembered, 1 to 16,777,216, and in any case 256 for each
    /// CPU that the machine can have, at some 120 bytes of kernel memory each; twice that
    /// while an object is tried behind another one. If more of them send, some that were
    /// silent for long are forgotten and have a full bucket when they come back: nobody is
    /// dropped because the table is full. The kernel keeps free places for each CPU, so it
    /// may begin to forget when the table is half full. Default: 65,536.
    pub max_sources: u32,
    /// Prefixes that each of the two lists holds, 1 to 1,048,576, at some 100 bytes of
    /// kernel memory each once they are in it. Default: 1,024.
    pub max_prefixes: u32,
    /// Shows one in so many of the dropped packets of each reason and CPU, the first one
    /// included ([`crate::XdpControls::drop_samples`]). Default: `None`, no samples.
    pub drop_samples: Option<u32>,
    /// Use the object of this kernel target and no other of the set. Default:
    /// `None`, the best one that the kernel can run.
    pub force_target: Option<String>,
    /// Whether [`crate::Ingest::open`] goes on with sockets alone where XDP fails.
    /// Default: true.
    pub fallback_on_error: bool,
}

impl Default for XdpConfig {
    fn default() -> Self {
        Self {
            enabled: false,
            bpf_object_path: PathBuf::from("/usr/share/laminardb/laminar_xdp.o"),
            interface: "eth0".into(),
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

impl XdpConfig {
    /// The kernel's limit for a CPU map queue (`EOVERFLOW` above it).
    pub const MAX_CPU_QUEUE_SIZE: u32 = 16_384;
    /// The most partitions that a table can have.
    pub const MAX_PARTITIONS: u32 = 65_536;
    /// The most ports that can be filtered, [`XdpConfig::port`] included.
    pub const MAX_PORTS: usize = abi::LAMINAR_MOST_PORTS as usize;
    /// The most sources that can be remembered.
    pub const MAX_SOURCES: u32 = 1 << 24;
    /// The most prefixes that a list can hold.
    pub const MAX_PREFIXES: u32 = 1 << 20;

    /// Starts from the defaults.
    pub fn builder() -> XdpConfigBuilder {
        XdpConfigBuilder { config: Self::default() }
    }

    /// Checks every field that can be judged without the machine.
    /// [`crate::XdpLoader::load_and_attach`] does it first of all.
    ///
    /// # Errors
    /// [`XdpError::Config`] names the field, what is wrong and what is allowed.
    pub fn validate(&self) -> Result<(), XdpError> {
        if !is_interface_name(&self.interface) {
            return Err(XdpError::config(
                "interface",
                format!(
                    "{:?} cannot be an interface's name: 1 to 15 bytes without '/', ':' and blanks; \
                     `ip link` lists the interfaces",
                    self.interface
                ),
            ));
        }
        if self.port == 0 {
            return Err(XdpError::config(
                "port",
                "0 is not a port; LaminarDB's own is 9999, allowed are 1 to 65535",
            ));
        }
        check_ports("more_ports", &self.ports())?;
        self.check_sources()?;
        if !(1..=Self::MAX_CPU_QUEUE_SIZE).contains(&self.cpu_queue_size) {
            return Err(XdpError::config(
                "cpu_queue_size",
                format!(
                    "{} packets is not a queue size the kernel takes: 1 to {}",
                    self.cpu_queue_size,
                    Self::MAX_CPU_QUEUE_SIZE
                ),
            ));
        }
        if let Some(partitions) = self.partitions
            && !(1..=Self::MAX_PARTITIONS).contains(&partitions)
        {
            return Err(XdpError::config(
                "partitions",
                format!("{partitions} partitions cannot be had: 1 to {}", Self::MAX_PARTITIONS),
            ));
        }
        if self.attach_mode == XdpAttachMode::Offload {
            return Err(XdpError::config(
                "attach_mode",
                "the program hands packets to CPUs of this machine, which a program on the network \
                 card cannot do; use auto, native or generic",
            ));
        }
        Ok(())
    }
}

impl XdpConfig {
    /// All ports, the first one first.
    pub(crate) fn ports(&self) -> Vec<u16> {
        [self.port].into_iter().chain(self.more_ports.iter().copied()).collect()
    }

    fn check_sources(&self) -> Result<(), XdpError> {
        self.source_limit.map_or(Ok(()), SourceLimit::check)?;
        let range = |field, value: u32, most: u32| match (1..=most).contains(&value) {
            true => Ok(()),
            false => Err(XdpError::config(field, format!("{value} cannot be had: 1 to {most}"))),
        };
        range("max_sources", self.max_sources, Self::MAX_SOURCES)?;
        range("max_prefixes", self.max_prefixes, Self::MAX_PREFIXES)?;
        if self.drop_samples == Some(0) {
            let problem = "one in 0 packets cannot be shown; 1 shows each, None none";
            return Err(XdpError::config("drop_samples", problem));
        }
        for list in self.source_lists.iter().flat_map(|lists| [&lists.deny, &lists.allow]) {
            if list.len() > self.max_prefixes as usize {
                let (has, most) = (list.len(), self.max_prefixes);
                let problem =
                    format!("a list has {has} prefixes, but max_prefixes is {most}; raise it");
                return Err(XdpError::config("source_lists", problem));
            }
        }
        Ok(())
    }
}

/// Fails unless a program can filter these ports.
pub(crate) fn check_ports(field: &'static str, ports: &[u16]) -> Result<(), XdpError> {
    if !(1..=XdpConfig::MAX_PORTS).contains(&ports.len()) {
        let (most, has) = (XdpConfig::MAX_PORTS, ports.len());
        let problem = format!("{has} ports cannot be filtered: 1 to {most} in all");
        return Err(XdpError::config(field, problem));
    }
    for (i, port) in ports.iter().enumerate() {
        if *port == 0 {
            return Err(XdpError::config(field, "0 is not a port; allowed are 1 to 65535"));
        }
        if ports[..i].contains(port) {
            return Err(XdpError::config(field, format!("{port} is named twice")));
        }
    }
    Ok(())
}

fn is_interface_name(name: &str) -> bool {
    let allowed = |c: char| !c.is_whitespace() && !c.is_control() && c != '/' && c != ':';
    (1..=15).contains(&name.len()) && name.chars().all(allowed) && name != "." && name != ".."
}

/// Builds an [`XdpConfig`]; each method sets the field of its name.
#[derive(Debug, Clone)]
pub struct XdpConfigBuilder {
    config: XdpConfig,
}

macro_rules! setters {
    ($($field:ident: $type:ty),* $(,)?) => {$(
        #[doc = concat!("Sets [`XdpConfig::", stringify!($field), "`].")]
        #[must_use]
        pub fn $field(mut self, $field: impl Into<$type>) -> Self {
            self.config.$field = $field.into();
            self
        }
    )*};
}

impl XdpConfigBuilder {
    setters! {
        enabled: bool,
        bpf_object_path: PathBuf,
        interface: String,
        port: u16,
        attach_mode: XdpAttachMode,
        cpu_queue_size: u32,
        partitions: Option<u32>,
        more_ports: Vec<u16>,
        source_limit: Option<SourceLimit>,
        source_lists: Option<SourceLists>,
        max_sources: u32,
        max_prefixes: u32,
        drop_samples: Option<u32>,
        fallback_on_error: bool,
    }

    /// Sets [`XdpConfig::force_target`].
    #[must_use]
    pub fn force_target(mut self, target: impl Into<String>) -> Self {
        self.config.force_target = Some(target.into());
        self
    }

    /// The configuration.
    ///
    /// # Errors
    /// Those of [`XdpConfig::validate`].
    pub fn build(self) -> Result<XdpConfig, XdpError> {
        self.config.validate()?;
        Ok(self.config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_the_documented_ones_and_valid() {
        let config = XdpConfig::default();
        assert!(!config.enabled && config.fallback_on_error);
        assert_eq!(config.bpf_object_path, PathBuf::from("/usr/share/laminardb/laminar_xdp.o"));
        assert_eq!((config.interface.as_str(), config.port), ("eth0", 9999));
        assert_eq!((config.attach_mode, config.cpu_queue_size), (XdpAttachMode::Auto, 2048));
        config.validate().unwrap();
    }

    #[test]
    fn each_bad_field_is_named() {
        let refused = |builder: XdpConfigBuilder| match builder.build() {
            Err(XdpError::Config { field, .. }) => field,
            other => panic!("{other:?}"),
        };
        let new = XdpConfig::builder;
        for name in ["", "a-name-too-long-x", "a/b", "a b", "..", "a\0b"] {
            assert_eq!(refused(new().interface(name)), "interface", "{name:?}");
        }
        assert_eq!(refused(new().port(0u16)), "port");
        assert_eq!(refused(new().cpu_queue_size(0u32)), "cpu_queue_size");
        assert_eq!(refused(new().cpu_queue_size(16_385u32)), "cpu_queue_size");
        assert_eq!(refused(new().partitions(0)), "partitions");
        assert_eq!(refused(new().partitions(65_537)), "partitions");
        assert_eq!(refused(new().more_ports([9999])), "more_ports", "twice");
        assert_eq!(refused(new().more_ports([1, 0])), "more_ports");
        assert_eq!(refused(new().more_ports((1..=16).collect::<Vec<_>>())), "more_ports");
        let limit = SourceLimit { packets_per_second: 0, burst: 1 };
        assert_eq!(refused(new().source_limit(limit)), "source_limit");
        assert_eq!(refused(new().max_sources(0u32)), "max_sources");
        assert_eq!(refused(new().max_sources((1u32 << 24) + 1)), "max_sources");
        assert_eq!(refused(new().max_prefixes(0u32)), "max_prefixes");
        assert_eq!(refused(new().drop_samples(0)), "drop_samples");
        let prefix = "192.0.2.0/24".parse().unwrap();
        let lists = SourceLists { deny: vec![prefix; 3], allow: Vec::new() };
        assert_eq!(refused(new().max_prefixes(2u32).source_lists(lists)), "source_lists");
        assert_eq!(refused(new().attach_mode(XdpAttachMode::Offload)), "attach_mode");
    }

    #[test]
    fn the_limits_themselves_are_allowed() {
        let new = XdpConfig::builder;
        new().port(65_535u16).cpu_queue_size(16_384u32).partitions(65_536).build().unwrap();
        new().more_ports((1..=15).collect::<Vec<_>>()).max_sources(1u32 << 24).build().unwrap();
        new().port(1u16).cpu_queue_size(1u32).partitions(1).interface("a").build().unwrap();
    }
}
