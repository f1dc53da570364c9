//! The set-up of a measurement: traffic, the receiving interface, contenders and the
//! application.

pub mod application;
pub mod contenders;
pub mod generator;
pub mod rounds;
pub mod rx_interface;
pub mod scenario;
pub mod third_party;
pub mod threads;
