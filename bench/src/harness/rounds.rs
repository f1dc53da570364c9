//! The rounds of a measurement on a busy machine. This module waits for the first packet of a
//! round, and repeats a round that has no result.
//!
//! Other processes can occupy the CPUs for a whole measurement window. No packet is then sent or
//! received in that window, so there is nothing to measure. The round fails with
//! [`NothingMeasured`], and [`measure_round`] repeats the round. Every other error is a fault of
//! the code under test or of the benchmark, so [`measure_round`] does not repeat the round.

use std::fmt::{self, Display};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Error, Result};

use crate::session::Session;

/// The maximum number of attempts at one round.
const ATTEMPTS: usize = 3;

/// How long to wait for the first packet. The generator waits for RCU before it sends. On a busy
/// machine, it may also wait until its CPU is free.
const FIRST_PACKET_TIMEOUT: Duration = Duration::from_secs(5);

/// The error of a round in which no packet was processed because other processes occupied the CPUs.
#[derive(Debug)]
pub struct NothingMeasured(String);

impl NothingMeasured {
    /// Creates the error with its reason.
    pub fn because(reason: impl Display) -> Error {
        Error::new(NothingMeasured(reason.to_string()))
    }
}

impl Display for NothingMeasured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NothingMeasured {}

/// Waits until `arrived` returns true. The measurement window begins after this wait, so it does
/// not include the time that the generator needs to start.
pub fn wait_for_first_packet(arrived: impl Fn() -> Result<bool>) -> Result<()> {
    let begin = Instant::now();
    while !arrived()? {
        if begin.elapsed() > FIRST_PACKET_TIMEOUT {
            let seconds = FIRST_PACKET_TIMEOUT.as_secs();
            return Err(NothingMeasured::because(format!("no packet arrived within {seconds} s")));
        }
        sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// Runs one round. Repeats the round if it fails with [`NothingMeasured`]. If the last attempt
/// fails too, a full run returns the error. A quick run continues without the figure: this function
/// then returns `None` and adds the reason to `left_out`.
pub fn measure_round<T>(
    session: &Session,
    left_out: &mut Vec<String>,
    name: impl Display,
    mut measure: impl FnMut() -> Result<T>,
) -> Result<Option<T>> {
    let mut attempt = 1;
    let error = loop {
        match measure() {
            Ok(result) => return Ok(Some(result)),
            Err(error) if !error.is::<NothingMeasured>() => {
                return Err(error).context(name.to_string());
            }
            Err(error) => {
                session.progress(format_args!("{name}, attempt {attempt}: {error:#}"));
                if attempt == ATTEMPTS {
                    break error;
                }
            }
        }
        attempt += 1;
    };
    if !session.quick {
        return Err(error).context(name.to_string());
    }
    left_out.push(format!("{name}: {error:#} ({ATTEMPTS} attempts)"));
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(quick: bool) -> Session {
        let (programs, all_cpus) = (Default::default(), vec![0, 1]);
        Session { quick, rx_cpu: 0, other_cpu: 1, all_cpus, programs, nics: None }
    }

    /// Runs a round whose first `failures` attempts fail with `error`. Returns the result, the
    /// contents of `left_out`, and the number of attempts.
    fn run(
        quick: bool,
        failures: usize,
        error: fn() -> Error,
    ) -> (Result<Option<usize>>, Vec<String>, usize) {
        let (mut left_out, mut attempts) = (Vec::new(), 0);
        let result = measure_round(&session(quick), &mut left_out, "junk", || {
            attempts += 1;
            if attempts <= failures { Err(error()) } else { Ok(attempts) }
        });
        (result, left_out, attempts)
    }

    fn nothing() -> Error {
        NothingMeasured::because("no packet arrived").context("in a window")
    }

    #[test]
    fn a_round_that_measured_nothing_is_repeated() {
        for quick in [true, false] {
            let (result, left_out, attempts) = run(quick, ATTEMPTS - 1, nothing);
            assert_eq!((result.unwrap(), attempts), (Some(ATTEMPTS), ATTEMPTS));
            assert!(left_out.is_empty(), "{left_out:?}");
        }
    }

    #[test]
    fn a_quick_run_reports_a_missing_figure_and_a_full_run_fails() {
        let (result, left_out, attempts) = run(true, usize::MAX, nothing);
        assert_eq!((result.unwrap(), attempts), (None, ATTEMPTS));
        assert_eq!(left_out, ["junk: in a window: no packet arrived (3 attempts)"]);

        let (result, left_out, _) = run(false, usize::MAX, nothing);
        assert_eq!(format!("{:#}", result.unwrap_err()), "junk: in a window: no packet arrived");
        assert!(left_out.is_empty(), "{left_out:?}");
    }

    #[test]
    fn other_errors_are_not_repeated() {
        let (result, left_out, attempts) = run(true, 1, || anyhow::anyhow!("junk was accepted"));
        assert_eq!((result.is_err(), attempts), (true, 1));
        assert!(left_out.is_empty(), "{left_out:?}");
    }
}
