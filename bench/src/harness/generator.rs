//! The packet generator: a BPF program in the kernel's live-frames mode.

use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::{Context, Result};
use testbed::frame::{datagram, udp};
use testbed::{TestNet, bpf};

use crate::harness::rx_interface::PORT;
use crate::harness::threads::Worker;
use crate::session::Session;

/// The number of frames in one test run. The kernel waits for RCU at the start and at the end of a
/// test run, and sends nothing during these waits. With this number, a test run is interrupted long
/// before its end, so no measurement includes such a wait.
const REPEAT: u32 = i32::MAX as u32;

/// The number of bytes in all headers: Ethernet, IPv4, UDP, LaminarDB.
const HEADERS: usize = 14 + 20 + 8 + 12;

/// The rate at which the generator sends junk or valid datagrams.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Rate {
    /// No packets.
    Zero,
    /// Packets per second.
    PerSecond(u64),
    /// As many packets as the generator can send.
    Maximum,
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Rate::Zero => f.write_str("none"),
            Rate::PerSecond(packets) if packets % 1000 == 0 => write!(f, "{} k", packets / 1000),
            Rate::PerSecond(packets) => write!(f, "{packets}"),
            Rate::Maximum => f.write_str("maximum"),
        }
    }
}

/// What the generator sends.
#[derive(Debug, Clone, Copy)]
pub struct Flow {
    /// The rate of junk: packets with a wrong magic.
    pub junk: Rate,
    /// The rate of valid datagrams.
    pub valid: Rate,
    /// The number of partitions. Successive packets use successive partition keys.
    pub partitions: u32,
    /// The number of source addresses. Successive packets use successive addresses.
    pub sources: u32,
    /// The size of a frame in bytes, without the Ethernet checksum.
    pub frame: usize,
    /// The maximum number of frames that the kernel sends in one batch.
    pub batch: u32,
}

impl Flow {
    /// A flow without packets. Use it as the base of other flows: `Flow { junk, ..Flow::NONE }`.
    pub const NONE: Flow = Flow {
        junk: Rate::Zero,
        valid: Rate::Zero,
        partitions: 64,
        sources: 1,
        frame: 100,
        batch: 64,
    };
}

/// A running generator. It sends until it is dropped.
pub struct Generator {
    program: Arc<OwnedFd>,
    worker: Worker,
    _pass_program: Option<OwnedFd>,
}

impl Generator {
    /// Starts sending on `cpu`. On the receiving CPU, the generator must not take time from the
    /// receiver. In a full run, the generator therefore uses the idle scheduling class there (see
    /// [`Session::uses_idle_class`]).
    pub fn start(session: &Session, net: &TestNet, flow: Flow, cpu: u32) -> Result<Generator> {
        let program = Arc::new(bpf::load_file(&session.program("generator")?)?);
        let interface = net.sender.enter(|| testbed::interface_index(&net.peer))? as u32;
        bpf::write_map(&program, c"generator", &state(&flow, interface))?;

        let mut frame = udp(PORT, &datagram(0, &vec![0; flow.frame.saturating_sub(HEADERS)]));
        frame[..6].copy_from_slice(&net.receiver_mac);
        // The program changes the payload without updating the UDP checksum. The value 0 means that
        // the packet has no checksum.
        frame[40..42].fill(0);

        // A network card sends redirected frames only while an XDP program is attached to it, so
        // attach a program that passes every packet.
        let pass_program = match session.has_nics() {
            true => {
                let program = bpf::empty_program(c"pass", bpf::XDP_PASS)?;
                Some(net.sender.enter(|| bpf::attach(&program, &net.peer))?)
            }
            false => None,
        };
        let idle = cpu == session.rx_cpu && session.uses_idle_class();
        let (running, sender) = (program.clone(), net.sender.try_clone()?);
        let worker = Worker::start(cpu, move |stop| {
            if idle {
                testbed::become_idle()?;
            }
            sender.join()?;
            while !stop.load(Ordering::Relaxed) {
                bpf::run_live(&running, &frame, REPEAT, flow.batch).context("live frames")?;
            }
            Ok(())
        })?;
        Ok(Generator { program, worker, _pass_program: pass_program })
    }

    /// Stops sending. Returns the generator's error if it failed while it ran.
    pub fn finish(self) -> Result<()> {
        self.worker.finish()
    }

    /// Returns how many junk packets and how many valid datagrams were sent so far, in this order.
    pub fn sent(&self) -> Result<(u64, u64)> {
        let state = bpf::read_map(&self.program, c"generator")?;
        let word = |at: usize| Some(u64::from_ne_bytes(state.get(at..at + 8)?.try_into().ok()?));
        word(16).zip(word(40)).context("the generator's map has an unexpected size")
    }
}

/// Encodes a flow as the bytes of `struct generator` in `programs/generator.c`.
fn state(flow: &Flow, interface: u32) -> Vec<u8> {
    let stream = |rate: Rate| {
        let interval = match rate {
            Rate::Zero => 0,
            Rate::PerSecond(packets) => 1_000_000_000 / packets.max(1),
            Rate::Maximum => 1,
        };
        [interval, 0, 0]
    };
    let first_source = u32::from(TestNet::SENDER);
    let words = [stream(flow.junk), stream(flow.valid)].concat();
    let halves = [interface, flow.partitions, flow.sources, first_source, 0, 0];
    let words = words.into_iter().flat_map(u64::to_ne_bytes);
    words.chain(halves.into_iter().flat_map(u32::to_ne_bytes)).collect()
}
