//! The tests of this crate are in `tests/` and its programs in `examples/`. The library only
//! makes `cargo test` compile the Rust samples of the repository's documents. They cannot be
//! part of `laminar-xdp`: its package does not contain these files.

/// The front page of the repository.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub struct Readme;

/// The guide for application engineers.
#[cfg(doctest)]
#[doc = include_str!("../../docs/guide.md")]
pub struct Guide;
