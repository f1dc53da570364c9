//! Builds an `XdpConfig` step by step.

use std::path::PathBuf;

use crate::config::{ConfigError, SourceLimit, SourceLists, XdpAttachMode, XdpConfig};

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
    config: XdpConfig,
}

/// Generates one setter for each line. A line has the field, the parameter's type, and the
/// value for the field.
macro_rules! setters {
    ($($field:ident($type:ty) => $value:expr;)*) => {$(
        #[doc = concat!("Sets [`XdpConfig::", stringify!($field), "`].")]
        pub fn $field(mut self, $field: $type) -> Self {
            self.config.$field = $value;
            self
        }
    )*};
}

impl XdpConfigBuilder {
    // Numbers have plain parameter types. With `impl Into<u16>`, a literal such as
    // `.port(9999)` would be an `i32`, which does not compile.
    setters! {
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
    use super::*;

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
