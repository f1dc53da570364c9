//! Checks that the loader's table of reasons and the C program give each reason the same
//! verdict.

use laminar_xdp::{XdpReason, XdpVerdict};
use laminar_xdp_prebuilt::abi;
use verdict_model::host::verdict_of;

/// Returns the kernel's number for a verdict (`enum xdp_action`).
fn number_of(verdict: XdpVerdict) -> i32 {
    match verdict {
        XdpVerdict::Dropped => 1,
        XdpVerdict::Passed => 2,
        XdpVerdict::Redirected => 4,
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_number_has_the_verdict_of_the_program() {
    for number in 0..abi::LAMINAR_MAX_REASONS {
        let verdict = XdpVerdict::of_number(number);
        assert_eq!(number_of(verdict), verdict_of(number), "reason {number}");
    }
}

#[test]
fn every_row_of_the_table_has_the_verdict_of_the_program() {
    for reason in XdpReason::ALL {
        assert_eq!(number_of(reason.verdict()), verdict_of(reason.number()), "{reason}");
    }
}
