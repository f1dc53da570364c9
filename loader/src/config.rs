//! What a user can choose, and which choices are refused.

use std::fmt;
use std::path::PathBuf;

use laminar_xdp_prebuilt::abi;

use crate::error::XdpError;

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
    /// The UDP destination port to filter, 1 to 65535. Default: 9999.
    pub port: u16,
    /// Default: [`XdpAttachMode::Auto`].
    pub attach_mode: XdpAttachMode,
    /// Packets that a CPU's queue holds, 1 to 16384. A packet for a full queue
    /// is lost. Default: 2048.
    pub cpu_queue_size: u32,
    /// Number of partitions, 1 to 65536 and a multiple of the number of cores.
    /// Default: `None`, the smallest such multiple from 64 on.
    pub partitions: Option<u32>,
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
            attach_mode: XdpAttachMode::Auto,
            cpu_queue_size: 2048,
            partitions: None,
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
        assert_eq!(refused(new().attach_mode(XdpAttachMode::Offload)), "attach_mode");
    }

    #[test]
    fn the_limits_themselves_are_allowed() {
        let new = XdpConfig::builder;
        new().port(65_535u16).cpu_queue_size(16_384u32).partitions(65_536).build().unwrap();
        new().port(1u16).cpu_queue_size(1u32).partitions(1).interface("a").build().unwrap();
    }
}
