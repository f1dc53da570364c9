//! A contender in its place, with traffic on one side and an application on the other.

use std::sync::Arc;

use anyhow::Result;

use crate::Bench;
use crate::application::{self, Seen};
use crate::contenders::{Contender, Held};
use crate::generator::{Flow, Generator};
use crate::receiving::Receiving;
use crate::threads::Worker;

/// All of it runs until [`Standing::finish`].
pub struct Standing {
    /// What the application saw.
    pub seen: Arc<Seen>,
    /// What is sent.
    pub generator: Generator,
    application: Worker,
    held: Held,
    // Last, as all the others are on its wire.
    receiving: Receiving,
}

impl Standing {
    /// Puts it up on the CPU that receives; the other one sends.
    pub fn new(bench: &Bench, contender: Contender, flow: Flow) -> Result<Standing> {
        let (cpu, other) = bench.cpus;
        let mut receiving = Receiving::new(bench, cpu)?;
        let (socket, seen) = (receiving.socket()?, Seen::nothing()?);
        let held = contender.put_up(&mut receiving, &socket, cpu)?;
        let application = application::start(socket, &seen, cpu)?;
        let generator = Generator::start(bench, &receiving.wire, flow, other)?;
        Ok(Standing { seen, generator, application, held, receiving })
    }

    /// How long the receiving CPU's threads have been running, in nanoseconds.
    pub fn run_time(&self) -> Result<u64> {
        Ok(self.receiving.run_time()? + self.application.run_time()?)
    }

    /// How many packets the interface took.
    pub fn packets(&self) -> Result<u64> {
        self.receiving.packets()
    }

    /// Takes it down, and says why if something of it had failed; gives what was seen.
    pub fn finish(self) -> Result<Arc<Seen>> {
        self.generator.finish()?;
        self.application.finish()?;
        drop(self.held);
        Ok(self.seen)
    }
}
