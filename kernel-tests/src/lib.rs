//! The library makes `cargo test` compile the Rust samples in the repository's documents.
//! `laminar-xdp` cannot do this itself, because its package does not contain the documents.
//! Everything else in this crate is in `tests/` and `examples/`.

/// The front page of the repository.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub struct Readme;

/// The guide for application engineers.
#[cfg(doctest)]
#[doc = include_str!("../../docs/guide.md")]
pub struct Guide;
