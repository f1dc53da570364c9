//! Why a configuration cannot be used.

/// A configured value that cannot be used. The error is found before anything on the machine
/// changes.
///
/// ```
/// use laminar_xdp::XdpConfig;
///
/// let error = XdpConfig::builder().partitions(0).build().unwrap_err();
/// assert_eq!(error.field(), "partitions");
/// assert_eq!(error.to_string(), "configuration: partitions: 0 is out of range; use 1 to 65536");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("configuration: {field}: {problem}")]
#[non_exhaustive]
pub struct ConfigError {
    field: &'static str,
    problem: String,
}

impl ConfigError {
    pub(crate) fn new(field: &'static str, problem: impl Into<String>) -> Self {
        Self { field, problem: problem.into() }
    }

    /// The name of the field or argument whose value cannot be used.
    pub fn field(&self) -> &'static str {
        self.field
    }

    /// What is wrong with the value, and which values are allowed.
    pub fn problem(&self) -> &str {
        &self.problem
    }
}
