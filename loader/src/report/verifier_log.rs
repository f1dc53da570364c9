//! The log of the kernel's verifier.

use std::fmt;

/// The log of the kernel's verifier for a program that it refused. Empty if loading failed
/// before the verifier ran.
///
/// `{}` shows the last 4 lines, which contain the verdict. `{:#}` shows the whole log.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize)]
pub struct VerifierLog(String);

impl VerifierLog {
    /// The number of lines that `{}` shows.
    const SHORT_LINES: usize = 4;

    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Returns the whole log.
    pub fn text(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for VerifierLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<_> = self.0.lines().filter(|line| !line.trim().is_empty()).collect();
        let hidden = if f.alternate() { 0 } else { lines.len().saturating_sub(Self::SHORT_LINES) };
        if hidden > 0 {
            writeln!(f, "[{hidden} lines before]")?;
        }
        f.write_str(&lines[hidden..].join("\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_shows_the_last_lines_and_its_alternate_form_all() {
        let text: String = (1..=10).map(|line| format!("line {line}\n")).collect();
        let log = VerifierLog::new(text);
        assert_eq!(log.to_string(), "[6 lines before]\nline 7\nline 8\nline 9\nline 10");
        assert_eq!(format!("{log:#}").lines().count(), 10);
        assert_eq!(VerifierLog::default().to_string(), "");
    }
}
