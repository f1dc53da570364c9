//! A running contender. A generator sends packets to the contender, and an application reads the
//! packets that the contender lets through.

use std::sync::Arc;

use anyhow::Result;

use crate::harness::application::{self, Received};
use crate::harness::contenders::{Contender, Installed};
use crate::harness::generator::{Flow, Generator};
use crate::harness::rx_interface::RxInterface;
use crate::harness::threads::Worker;
use crate::session::Session;

/// A generator, a contender and an application, which run until [`Scenario::finish`].
pub struct Scenario {
    /// What the application received.
    pub received: Arc<Received>,
    /// The source of the packets.
    pub generator: Generator,
    application: Worker,
    contender: Installed,
    // Rust drops fields in the order of their declaration. `rx` is the last field, because the
    // other fields use its network.
    rx: RxInterface,
}

impl Scenario {
    /// Starts everything. [`Session::rx_cpu`] receives, and [`Session::other_cpu`] sends.
    pub fn start(session: &Session, contender: Contender, flow: Flow) -> Result<Scenario> {
        let cpu = session.rx_cpu;
        let mut rx = RxInterface::new(session, cpu)?;
        let (socket, received) = (rx.socket()?, Received::new()?);
        let contender = contender.install(&mut rx, &socket, cpu)?;
        let application = application::start(socket, &received, cpu)?;
        let generator = Generator::start(session, &rx.net, flow, session.other_cpu)?;
        Ok(Scenario { received, generator, application, contender, rx })
    }

    /// The total run time of the polling threads and of the application, in nanoseconds.
    pub fn run_time(&self) -> Result<u64> {
        Ok(self.rx.run_time()? + self.application.run_time()?)
    }

    /// The number of packets that the interface received.
    pub fn packets(&self) -> Result<u64> {
        self.rx.packets()
    }

    /// Stops everything and returns what the application received. Returns an error if the
    /// generator or the application failed.
    pub fn finish(self) -> Result<Arc<Received>> {
        self.generator.finish()?;
        self.application.finish()?;
        drop(self.contender);
        Ok(self.received)
    }
}
