//! The table of reasons: why a packet got its verdict.
//!
//! The loader names each reason in one place only: the reason's row in the table. The row gives
//! the variant of [`XdpReason`] and the field of [`XdpStats`](crate::XdpStats). Reading, sums and
//! printing loop over the rows. Two mistakes are compile errors: a number of `enum
//! laminar_reason` (`bpf-src/laminar_abi.h`) that has no row, and a row with a wrong verdict.

use std::fmt;
use std::str::FromStr;

use laminar_xdp_prebuilt::{Layer, abi};

/// The decision about a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum XdpVerdict {
    /// The packet continues to the kernel's network stack, or into the socket.
    Passed,
    /// The packet is discarded.
    Dropped,
    /// The packet goes to the queue of another CPU.
    Redirected,
}

impl XdpVerdict {
    /// The verdict of a reason's number, even if this library does not know the reason. This
    /// function must agree with `verdict_of()` in `bpf-src/verdict.h`.
    pub const fn of_number(number: u32) -> XdpVerdict {
        match number {
            0..abi::LAMINAR_FIRST_DROP_REASON => XdpVerdict::Passed,
            abi::LAMINAR_FIRST_DROP_REASON..abi::LAMINAR_FIRST_REDIRECT_REASON => {
                XdpVerdict::Dropped
            }
            abi::LAMINAR_FIRST_REDIRECT_REASON.. => XdpVerdict::Redirected,
        }
    }
}

impl fmt::Display for XdpVerdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            XdpVerdict::Passed => "passed",
            XdpVerdict::Dropped => "dropped",
            XdpVerdict::Redirected => "redirected",
        })
    }
}

/// Calls a macro with all rows: the variant, the field, the number, the verdict, and the layers
/// whose programs count the reason. The rows have the order of `enum laminar_reason`.
macro_rules! with_reasons {
    ($callback:ident) => {
        $callback! {
            /// Passed: too malformed to judge. One of the four totals, and not part of `passed`.
            Invalid, invalid, LAMINAR_REASON_INVALID, Passed by Xdp;
            /// Passed: a fragment of a UDP datagram to any port.
            PassedFragment, passed_fragment, LAMINAR_REASON_PASSED_FRAGMENT, Passed by Xdp;
            /// Passed: valid, but the partition has no owner, or the owner's CPU has no queue.
            PassedNoQueue, passed_no_queue, LAMINAR_REASON_PASSED_NO_QUEUE, Passed by Xdp;
            /// Passed by the filters of sockets: valid. Not part of any total, because XDP
            /// counted the packet before the socket.
            Accepted, accepted, LAMINAR_REASON_ACCEPTED, Passed by Sockets;
            /// Dropped: the payload is shorter than a header.
            DroppedShort, dropped_short, LAMINAR_REASON_DROPPED_SHORT, Dropped by Xdp Sockets;
            /// Dropped: the magic is wrong.
            DroppedMagic, dropped_magic, LAMINAR_REASON_DROPPED_MAGIC, Dropped by Xdp Sockets;
            /// Dropped: the length in the header is not the number of bytes that follow the header.
            DroppedLength, dropped_length, LAMINAR_REASON_DROPPED_LENGTH, Dropped by Xdp Sockets;
            /// Dropped by the filters of sockets: sent to a broadcast or multicast address. The
            /// kernel gives each socket a copy, and each copy is counted.
            DroppedMulticast, dropped_multicast, LAMINAR_REASON_DROPPED_MULTICAST,
                Dropped by Sockets;
            /// Dropped: the source is denied ([`crate::SourceLists`]).
            DroppedDenied, dropped_denied, LAMINAR_REASON_DROPPED_DENIED, Dropped by Xdp;
            /// Dropped: valid, but the source sent more than its limit ([`crate::SourceLimit`]).
            DroppedRate, dropped_rate, LAMINAR_REASON_DROPPED_RATE, Dropped by Xdp;
            /// Redirected: put into the queue of the CPU that owns the partition. A packet that
            /// is lost because the queue is full is counted here too. One of the four totals.
            Redirected, redirected, LAMINAR_REASON_REDIRECTED, Redirected by Xdp;
        }
    };
}
pub(super) use with_reasons;

macro_rules! define_reason {
    ($(
        $(#[$doc:meta])*
        $reason:ident, $field:ident, $number:ident, $verdict:ident by $($layer:ident)+;
    )*) => {
        /// Why a packet got its verdict.
        ///
        /// An exporter that calls [`XdpStats::get`](crate::XdpStats::get) for each reason of
        /// `XdpReason::ALL` also exports the reasons of later releases.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum XdpReason {
            $($(#[$doc])* $reason,)*
        }

        impl XdpReason {
            /// Every reason.
            pub const ALL: &[XdpReason] = &[$(XdpReason::$reason),*];

            /// The reason's name, which is also the name of its field in
            /// [`XdpStats`](crate::XdpStats).
            pub const fn name(self) -> &'static str {
                match self { $(XdpReason::$reason => stringify!($field),)* }
            }

            /// The reason's number in the programs. [`laminar_xdp_prebuilt::schema::stats_key`]
            /// converts this number to the key of the reason's counter in the map `stats`.
            pub const fn number(self) -> u32 {
                match self { $(XdpReason::$reason => abi::$number,)* }
            }

            /// The verdict that follows from the reason.
            pub const fn verdict(self) -> XdpVerdict {
                match self { $(XdpReason::$reason => XdpVerdict::$verdict,)* }
            }

            /// The layers whose programs count this reason.
            pub const fn layers(self) -> &'static [Layer] {
                match self { $(XdpReason::$reason => &[$(Layer::$layer),+],)* }
            }
        }
    };
}
with_reasons!(define_reason);

const _: () = {
    let mut at = 0;
    while at < abi::LAMINAR_REASONS.len() {
        let (name, number) = abi::LAMINAR_REASONS[at];
        if XdpReason::from_number(number).is_none() {
            panic!("{}", name); // This reason of enum laminar_reason has no row in the table.
        }
        at += 1;
    }
    at = 0;
    while at < XdpReason::ALL.len() {
        let reason = XdpReason::ALL[at];
        let number = reason.number();
        if number >= abi::LAMINAR_MAX_REASONS
            || XdpVerdict::of_number(number) as u8 != reason.verdict() as u8
        {
            panic!("{}", reason.name()); // The row's verdict differs from `of_number`.
        }
        match XdpReason::from_number(number) {
            Some(first) if first as u8 == reason as u8 => {}
            _ => panic!("{}", reason.name()), // Two rows have the same number.
        }
        at += 1;
    }
};

impl XdpReason {
    /// The reason with this number in the programs; `None` if this library does not know it.
    pub(crate) const fn from_number(number: u32) -> Option<XdpReason> {
        let mut at = 0;
        while at < Self::ALL.len() {
            if Self::ALL[at].number() == number {
                return Some(Self::ALL[at]);
            }
            at += 1;
        }
        None
    }
}

impl fmt::Display for XdpReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl serde::Serialize for XdpReason {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl FromStr for XdpReason {
    type Err = UnknownReason;

    fn from_str(name: &str) -> Result<XdpReason, UnknownReason> {
        let named = XdpReason::ALL.iter().copied().find(|reason| reason.name() == name);
        named.ok_or_else(|| UnknownReason(name.into()))
    }
}

/// No [`XdpReason`] has this name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no reason has the name {0:?}")]
pub struct UnknownReason(pub String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_parsed_back_and_start_with_the_verdict() {
        for &reason in XdpReason::ALL {
            assert_eq!(reason.name().parse(), Ok(reason));
            let starts_with = |prefix| reason.name().starts_with(prefix);
            assert_eq!(starts_with("dropped_"), reason.verdict() == XdpVerdict::Dropped);
            assert_eq!(starts_with("redirected"), reason.verdict() == XdpVerdict::Redirected);
        }
        assert_eq!("Invalid".parse::<XdpReason>(), Err(UnknownReason("Invalid".into())));
    }
}
