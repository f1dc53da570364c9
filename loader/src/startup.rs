//! Going on without XDP, if that is what the configuration wants.

use crate::XdpLoader;
use crate::config::XdpConfig;
use crate::error::XdpError;

/// What [`XdpLoader::load_or_fall_back`] came to.
#[derive(Debug)]
#[non_exhaustive]
pub enum Startup {
    /// XDP filters, and steers if [`XdpLoader::steers`] says so.
    Xdp(XdpLoader),
    /// Plain sockets have to do, for this reason.
    Sockets(XdpError),
}

impl XdpLoader {
    /// Like [`XdpLoader::load_and_attach`], but where the configuration says so
    /// ([`XdpConfig::fallback_on_error`]) a failure is not an error: the caller
    /// gets the reason to go on with plain sockets, and one warning is logged.
    /// A configuration that switches XDP off is no reason to warn.
    ///
    /// # Errors
    /// Those of [`XdpLoader::load_and_attach`] if falling back is off.
    pub fn load_or_fall_back(config: &XdpConfig, cores: &[u32]) -> Result<Startup, XdpError> {
        if !config.enabled {
            return Ok(Startup::Sockets(XdpError::Disabled));
        }
        match Self::load_and_attach(config, cores) {
            Ok(loader) => Ok(Startup::Xdp(loader)),
            Err(error) if config.fallback_on_error => {
                tracing::warn!(%error, "falling back to plain sockets");
                Ok(Startup::Sockets(error))
            }
            Err(error) => Err(error),
        }
    }
}
