//! Where in the kernel the XDP program runs.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::config::ConfigError;

/// Where in the kernel the XDP program runs.
///
/// The text form of a mode is its name in lower case. Parsing accepts any case; serde accepts
/// only lower case.
///
/// ```
/// use laminar_xdp::XdpAttachMode;
///
/// let mode: XdpAttachMode = "Native".parse()?;
/// assert_eq!(mode, XdpAttachMode::Native);
/// assert_eq!(mode.to_string(), "native");
/// # Ok::<(), laminar_xdp::ConfigError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum XdpAttachMode {
    /// Native mode if the driver and the MTU allow it, otherwise generic mode.
    #[default]
    Auto,
    /// In the driver, before the kernel does any other work for a packet. The driver must support
    /// XDP. A packet that does not fit into one buffer of the driver (an MTU of about 3500 bytes
    /// or more) needs Linux 5.18 and a driver with multi-buffer XDP.
    Native,
    /// In the network stack. Generic mode works with every driver and MTU. Generic mode costs more
    /// than native mode and less than plain sockets. Steering in this mode needs Linux 5.15 or
    /// later and the object linux-5.9; otherwise the program filters without steering.
    Generic,
    /// On the network card. Always refused: no card can redirect to a CPU map.
    Offload,
}

impl XdpAttachMode {
    const ALL: [XdpAttachMode; 4] = [
        XdpAttachMode::Auto,
        XdpAttachMode::Native,
        XdpAttachMode::Generic,
        XdpAttachMode::Offload,
    ];

    fn name(self) -> &'static str {
        match self {
            XdpAttachMode::Auto => "auto",
            XdpAttachMode::Native => "native",
            XdpAttachMode::Generic => "generic",
            XdpAttachMode::Offload => "offload",
        }
    }
}

impl fmt::Display for XdpAttachMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Parses the name of a mode in any case.
///
/// # Errors
/// [`ConfigError`] for field `attach_mode` lists the allowed names.
impl FromStr for XdpAttachMode {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<XdpAttachMode, ConfigError> {
        let named = Self::ALL.into_iter().find(|mode| mode.name().eq_ignore_ascii_case(text));
        named.ok_or_else(|| {
            let problem = format!("{text:?} is not a mode; use auto, native, generic or offload");
            ConfigError::new("attach_mode", problem)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_survive_parsing_and_serde_round_trips() {
        for mode in XdpAttachMode::ALL {
            let name = mode.to_string();
            assert_eq!(name.parse(), Ok(mode));
            assert_eq!(name.to_uppercase().parse(), Ok(mode));
            let json = serde_json::to_string(&mode).unwrap();
            assert_eq!(json, format!("{name:?}"));
            assert_eq!(serde_json::from_str::<XdpAttachMode>(&json).unwrap(), mode);
        }
    }

    #[test]
    fn an_unknown_mode_is_refused_with_the_allowed_names() {
        let error = "fast".parse::<XdpAttachMode>().unwrap_err();
        assert_eq!(error.field(), "attach_mode");
        for mode in XdpAttachMode::ALL {
            assert!(error.problem().contains(mode.name()), "{error}");
        }
        assert!(error.problem().contains("\"fast\""), "{error}");
    }
}
