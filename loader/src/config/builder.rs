//! Builds an `XdpConfig` step by step.

use crate::config::{ConfigError, XdpConfig};

/// Builds an [`XdpConfig`]. Each method sets the field of the same name; the others keep their
/// defaults.
///
/// ```
/// use laminar_xdp::{SourceLimit, XdpAttachMode, XdpConfig};
///
/// let config = XdpConfig::builder()
///     .enabled(true)
///     .interface("eth0")
///     .port(9999)
///     .more_ports([10_000, 10_001])
///     .attach_mode(XdpAttachMode::Native)
///     .source_limit(SourceLimit::per_second(10_000))
///     .build()?;
/// # Ok::<(), laminar_xdp::ConfigError>(())
/// ```
#[derive(Debug, Clone, Default)]
#[must_use = "a builder does nothing until `build` is called"]
pub struct XdpConfigBuilder {
    pub(super) config: XdpConfig,
}

/// Generates one setter for each line. A line has the field, the parameter's type, and the
/// value for the field. A field of [`XdpConfig`] without a line is a compile error.
macro_rules! setters {
    ($($field:ident($type:ty) => $value:expr;)*) => {
        impl XdpConfigBuilder {$(
            #[doc = concat!("Sets [`XdpConfig::", stringify!($field), "`].")]
            pub fn $field(mut self, $field: $type) -> Self {
                self.config.$field = $value;
                self
            }
        )*}

        // The compiler names a field that is missing here. For a pattern it would not.
        const _: fn(XdpConfig) -> XdpConfig = |config| XdpConfig { $($field: config.$field),* };
    };
}
pub(super) use setters;

impl XdpConfigBuilder {
    /// Checks the configuration and returns it.
    ///
    /// # Errors
    /// Those of [`XdpConfig::validate`]. A [`ConfigError`] converts into
    /// [`XdpError`](crate::XdpError), so `?` works in functions that return either.
    pub fn build(self) -> Result<XdpConfig, ConfigError> {
        self.config.validate()?;
        Ok(self.config)
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::config::{SourceLists, XdpAttachMode};

    #[test]
    fn setters_accept_untyped_literals() {
        let config = XdpConfig::builder()
            .port(9999)
            .more_ports([10_000, 10_001])
            .cpu_queue_size(4096)
            .partitions(128)
            .max_sources(1000)
            .max_prefixes(100)
            .drop_samples(1000)
            .build()
            .unwrap();
        assert_eq!((config.port, config.more_ports), (9999, vec![10_000, 10_001]));
        assert_eq!((config.cpu_queue_size, config.partitions), (4096, Some(128)));
        assert_eq!((config.max_sources, config.max_prefixes), (1000, 100));
        assert_eq!(config.drop_samples, Some(1000));
    }

    #[test]
    fn setters_accept_strings_paths_and_flags() {
        let builder = XdpConfig::builder()
            .enabled(true)
            .bpf_object_path("/objects")
            .interface(String::from("eth1"))
            .attach_mode(XdpAttachMode::Generic)
            .source_lists(SourceLists::new())
            .force_target("linux-5.3")
            .fallback_on_error(false);
        let config = builder.clone().build().unwrap();
        assert!(config.enabled && !config.fallback_on_error);
        assert_eq!(config.bpf_object_path, PathBuf::from("/objects"));
        assert_eq!(
            (config.interface.as_str(), config.attach_mode),
            ("eth1", XdpAttachMode::Generic)
        );
        assert_eq!(config.source_lists, Some(SourceLists::default()));
        assert_eq!(config.force_target.as_deref(), Some("linux-5.3"));
        assert_eq!(builder.more_interfaces(["a", "b"]).config.more_interfaces, ["a", "b"]);
    }
}
