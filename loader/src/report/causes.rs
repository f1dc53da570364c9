//! Shows an error together with its causes.

use std::error::Error;
use std::fmt;

/// The causes of an error, beginning with its source.
pub(super) fn causes(error: &dyn Error) -> impl Iterator<Item = &(dyn Error + 'static)> {
    let mut next = error.source();
    std::iter::from_fn(move || {
        let cause = next?;
        next = cause.source();
        Some(cause)
    })
}

/// Shows an error's message, then its causes, then its advice.
///
/// `advice` is the end of the message, which tells what to do. The advice is moved behind the
/// causes, so that the causes directly follow the message's description of the failure.
pub(super) struct WithCauses<'a, E> {
    pub error: &'a E,
    pub advice: Option<&'a str>,
}

impl<E: Error> fmt::Display for WithCauses<'_, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let message = self.error.to_string();
        let without =
            self.advice.and_then(|advice| message.strip_suffix(advice)?.strip_suffix("; "));
        f.write_str(without.unwrap_or(&message))?;
        for cause in causes(self.error) {
            write!(f, ": {cause}")?;
        }
        match (without, self.advice) {
            (Some(_), Some(advice)) => write!(f, "; {advice}"),
            _ => Ok(()),
        }
    }
}
