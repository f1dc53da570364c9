//! The major and minor number of a Linux release.

use std::fmt;
use std::str::FromStr;

use anyhow::{Context, Error, Result};
use serde::Deserialize;

/// A release without its patch level, such as 6.12.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct Release {
    major: u32,
    minor: u32,
}

impl Release {
    /// Reads the release at the start of a version, such as `6.12.117-1~deb12u1`.
    pub fn of_version(version: &str) -> Result<Release> {
        let mut numbers = version.split('.').map(|part| {
            let end = part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len());
            part[..end].parse().ok()
        });
        let number = |number: Option<Option<u32>>| number.flatten();
        let release = (number(numbers.next()), number(numbers.next()));
        let (Some(major), Some(minor)) = release else {
            anyhow::bail!("{version:?} does not start with a Linux release such as 6.12");
        };
        Ok(Release { major, minor })
    }
}

impl FromStr for Release {
    type Err = Error;

    fn from_str(text: &str) -> Result<Release> {
        let numbers = text.split_once('.');
        let numbers = numbers.and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
        let (major, minor) =
            numbers.with_context(|| format!("{text:?} is not a Linux release such as 6.12"))?;
        Ok(Release { major, minor })
    }
}

impl TryFrom<String> for Release {
    type Error = Error;

    fn try_from(text: String) -> Result<Release> {
        text.parse()
    }
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_begins_with_its_release() {
        let release = |version| Release::of_version(version).unwrap().to_string();
        assert_eq!(release("5.10.262-1"), "5.10");
        assert_eq!(release("6.12.117-1~deb12u1"), "6.12");
        assert_eq!(release("7.4~rc2-1~exp1"), "7.4");
        for other in ["", "6", "6.", "linux-6.12"] {
            assert!(Release::of_version(other).is_err(), "{other:?}");
        }
    }

    #[test]
    fn releases_compare_by_number() {
        let release = |text: &str| text.parse::<Release>().unwrap();
        assert!(release("6.2") < release("6.12") && release("6.12") < release("7.0"));
        for other in ["6", "6.12.1", "6.x", "newest"] {
            assert!(other.parse::<Release>().is_err(), "{other:?}");
        }
    }
}
