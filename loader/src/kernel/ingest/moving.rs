//! A partition on its way from one CPU to another.

use std::time::Duration;

use crate::error::XdpError;
use crate::kernel::ingest::{Ingest, Stage, fence};
use crate::kernel::loader::XdpLoader;
use crate::kernel::steering::{self, Owner};

/// How long a receiver may take to handle what waits in its socket.
const RECEIVER_PATIENCE: Duration = Duration::from_secs(5);

impl Ingest {
    /// Moves a partition to another of the CPUs, and returns when that has it. Traffic
    /// goes on: no datagram is lost, and none of one sender overtakes another.
    ///
    /// The new owner holds back what comes to it until the former one has handled what
    /// was under way: in its CPU's queue, which is certain from Linux 5.18 on and with
    /// CAP_NET_RAW (else the queue is given 200 ms), and in its socket. That takes some
    /// tens of milliseconds, and some 10 seconds at most. Both CPUs' receivers must be at work,
    /// on other threads than this one; what they handle goes on meanwhile. Moves wait for
    /// each other.
    ///
    /// Order is kept for what comes through the interface that XDP is on. While a
    /// partition moves, senders on this machine or behind another interface may be
    /// overtaken by themselves, as the kernel processes their packets on changing CPUs;
    /// so may everybody if one of the two CPUs goes offline in those milliseconds.
    ///
    /// # Errors
    /// [`XdpError::Config`] for a partition or CPU that does not exist, or while the
    /// partition moves elsewhere. [`XdpError::NotMoved`] if order could not be kept
    /// (XDP steers, and a CPU is offline or receive packet steering is on), or if the
    /// former owner's CPU or receiver does not come to what waits there within seconds:
    /// then the new owner holds the datagrams back until the same call is repeated and
    /// succeeds.
    /// [`XdpError::Kernel`] and [`XdpError::Socket`] if the kernel refuses.
    pub fn move_partition(&self, partition: u32, core: u32) -> Result<(), XdpError> {
        let to = self.steering.check_move(partition, core)?;
        let stage = self.stage();
        if *stage != Stage::Serving {
            let problem = "another process takes over, and moves it from then on".into();
            let from = self.owner(partition).unwrap_or(core);
            return Err(XdpError::NotMoved { partition, from, problem });
        }
        let (from, next) = self.turns.now_and_next(partition);
        let cores = self.steering.cores();
        if next != from && next != to {
            let problem = format!(
                "partition {partition} is still on its way to CPU {}: finish that move first",
                cores[next]
            );
            return Err(XdpError::config("cpu", problem));
        }
        if from == to {
            return Ok(());
        }
        let old = cores[from];
        let not_moved = |problem: String| Err(XdpError::NotMoved { partition, from: old, problem });
        if !self.turns.desk(from).is_taken() {
            return not_moved(format!(
                "nobody reads its socket; take `Ingest::receiver({old})` and call this again"
            ));
        }
        let late = |core: u32| {
            format!(
                "the receiver of CPU {core} has not handled what waits in its socket for {} s; if \
                 its thread is gone take `Ingest::receiver({core})`, then call this again",
                RECEIVER_PATIENCE.as_secs()
            )
        };
        if self.group.object().is_none() {
            // Classic BPF goes on choosing the socket where the partition started, and its
            // receiver hands on what is not its own: nothing changes in the kernel. What
            // that one is about to hand to the old owner has to be there first.
            self.turns.set(partition, from, to);
            let start = partition as usize % cores.len();
            if start != from && !self.turns.desk(start).ask_to_empty(RECEIVER_PATIENCE) {
                return not_moved(late(cores[start]));
            }
        } else if self.steering.owner(partition) != to {
            // Where a call before this one came to its end too early, this is done.
            let steers = self.xdp.as_ref().filter(|xdp| xdp.steers());
            if let Some(problem) = steers.and_then(|xdp| disorder(xdp, [old, core])) {
                return not_moved(problem);
            }
            self.turns.set(partition, from, to);
            // Nothing is written yet, unless a call before this one did.
            let call_off = || {
                if next == from {
                    self.turns.set(partition, from, from);
                }
            };
            let queue = steers.map(|_| core);
            if let Some(xdp) = steers {
                // What comes out of the old queue still goes to the old socket, what
                // comes out of the new queue to the new one, where it is held back.
                let written = self.write_owner(partition, Owner { queue, socket: old });
                written.inspect_err(|_| call_off())?;
                fence::running_programs();
                if !fence::queue(xdp.loaded(), old) {
                    return not_moved(format!(
                        "that CPU has not processed what waits in its queue for 2 s: see what \
                         keeps it busy, then call this again; until then CPU {core} holds back \
                         what comes to it"
                    ));
                }
            }
            let written = self.write_owner(partition, Owner { queue, socket: core });
            written.inspect_err(|_| {
                if steers.is_none() {
                    call_off()
                }
            })?;
            self.steering.set_owner(partition, to);
        }
        // Now nothing reaches the old socket any more; what is there has to be handled.
        // Twice: since Linux 6.18 another CPU may still be queueing for one that is done.
        fence::running_programs();
        fence::running_programs();
        if !self.turns.desk(from).ask_to_empty(RECEIVER_PATIENCE) {
            return not_moved(late(old));
        }
        self.turns.set(partition, to, to);
        self.turns.desk(to).ring();
        drop(stage);
        Ok(())
    }

    /// Writes a partition's owner into the object's table, which is XDP's as well.
    fn write_owner(&self, partition: u32, owner: Owner) -> Result<(), XdpError> {
        match self.group.table() {
            Some(table) => steering::write(table, partition, owner),
            None => Ok(()),
        }
    }
}

/// What would let packets overtake each other on their way through the CPUs' queues.
fn disorder(xdp: &XdpLoader, cores: [u32; 2]) -> Option<String> {
    if let Some(core) = cores.into_iter().find(|core| !steering::is_online(*core)) {
        return Some(format!(
            "CPU {core} is offline, so its queue is processed by others; call this again when \
             it is back"
        ));
    }
    let interface = xdp.interface();
    interface.hands_on_packets().then(|| {
        format!(
            "receive packet steering hands on what XDP has steered: switch it off (write 0 to \
             /sys/class/net/{}/queues/rx-*/rps_cpus), then call this again",
            interface.name
        )
    })
}
