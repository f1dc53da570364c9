//! Traffic, at rates that the kernel's clock keeps.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::{Context, Result};
use testbed::frame::{datagram, udp};
use testbed::{TestNet, bpf};

use crate::Bench;
use crate::receiving::PORT;
use crate::threads::Worker;

/// How often the kernel runs the program: until it is interrupted, as it waits for RCU
/// before and after, and nothing is sent meanwhile.
const RUNS: u32 = i32::MAX as u32;

/// Bytes of a frame in front of what a datagram carries: Ethernet, IP, UDP, LaminarDB.
const HEADERS: usize = 14 + 20 + 8 + 12;

/// How many frames there are of a kind.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Rate {
    /// None.
    None,
    /// So many in a second.
    PerSecond(u64),
    /// As many as go out.
    Most,
}

/// What is sent.
#[derive(Debug, Clone, Copy)]
pub struct Flow {
    /// Frames with a wrong magic.
    pub junk: Rate,
    /// Valid datagrams.
    pub valid: Rate,
    /// To so many partitions, in turn.
    pub partitions: u32,
    /// From so many addresses, in turn.
    pub sources: u32,
    /// Bytes of a frame, without the checksum behind it.
    pub frame: usize,
    /// So many go out together at most.
    pub batch: u32,
}

impl Flow {
    /// Nothing, to be changed.
    pub const NONE: Flow = Flow {
        junk: Rate::None,
        valid: Rate::None,
        partitions: 64,
        sources: 1,
        frame: 100,
        batch: 64,
    };
}

/// Sends until it is dropped.
pub struct Generator {
    program: Arc<OwnedFd>,
    worker: Worker,
    _passing: Option<OwnedFd>,
}

impl Generator {
    /// Starts on a CPU. On the one that receives it runs when nothing else wants to.
    pub fn start(bench: &Bench, wire: &TestNet, flow: Flow, cpu: u32) -> Result<Generator> {
        let program = Arc::new(bpf::load_file(&bench.program("generator")?)?);
        let interface = wire.sender.enter(|| testbed::interface_index(&wire.peer))? as u32;
        bpf::write_map(&program, c"generator", &state(&flow, interface))?;

        let mut frame = udp(PORT, &datagram(0, &vec![0; flow.frame.saturating_sub(HEADERS)]));
        frame[..6].copy_from_slice(&wire.receiver_mac);
        // What is written into it changes, and is not summed up.
        frame[40..42].fill(0);

        let passing = match bench.has_cards() {
            true => {
                let program = bpf::empty_program(c"passing", bpf::XDP_PASS)?;
                Some(wire.sender.enter(|| bpf::attach(&program, &wire.peer))?)
            }
            false => None,
        };
        let receives = cpu == bench.cpus.0;
        let (running, sender) = (program.clone(), wire.sender.try_clone()?);
        let worker = Worker::start(cpu, move |stop| {
            if receives {
                testbed::become_idle()?;
            }
            sender.join()?;
            while !stop.load(Ordering::Relaxed) {
                bpf::run_live(&running, &frame, RUNS, flow.batch).context("live frames")?;
            }
            Ok(())
        })?;
        Ok(Generator { program, worker, _passing: passing })
    }

    /// Stops, and says why if it had stopped before.
    pub fn finish(self) -> Result<()> {
        self.worker.finish()
    }

    /// How many were sent, junk and valid.
    pub fn sent(&self) -> Result<(u64, u64)> {
        let state = bpf::read_map(&self.program, c"generator")?;
        let word = |at: usize| Some(u64::from_ne_bytes(state.get(at..at + 8)?.try_into().ok()?));
        word(16).zip(word(40)).context("the generator's map is not what it should be")
    }
}

/// `struct generator` of `programs/generator.c`.
fn state(flow: &Flow, interface: u32) -> Vec<u8> {
    let stream = |rate: Rate| {
        let interval = match rate {
            Rate::None => 0,
            Rate::PerSecond(packets) => 1_000_000_000 / packets.max(1),
            Rate::Most => 1,
        };
        [interval, 0, 0]
    };
    let first_source = u32::from(TestNet::SENDER);
    let words = [stream(flow.junk), stream(flow.valid)].concat();
    let halves = [interface, flow.partitions, flow.sources, first_source, 0, 0];
    let words = words.into_iter().flat_map(u64::to_ne_bytes);
    words.chain(halves.into_iter().flat_map(u32::to_ne_bytes)).collect()
}
