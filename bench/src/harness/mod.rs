//! The building blocks of a measurement: the packet generator, the receiving interface, the
//! contenders and the application.

pub mod application;
pub mod contenders;
pub mod generator;
pub mod rounds;
pub mod rx_interface;
pub mod scenario;
pub mod third_party;
pub mod threads;
