//! Moving a partition from one CPU to another without losing or reordering datagrams.
//!
//! A move has five steps. Each is safe to repeat, so repeating a failed move continues
//! where it stopped:
//!
//! 1. Announce: the new owner's receiver holds back the partition's datagrams.
//! 2. Redirect the queue (only if XDP steers), and wait until the old CPU's queue is
//!    drained. Packets from the old queue still go to the old socket.
//! 3. Redirect the socket. From now on no new datagram reaches the old socket.
//! 4. Drain the old socket: the old owner's receiver passes the partition's datagrams on to the
//!    new owner's receiver. The old owner's handler need not handle them, so an overloaded CPU
//!    can give partitions away.
//! 5. Complete: the new owner handles the held datagrams, then new ones.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::ids::{CpuId, CpuIndex, Partition};
use crate::ingest::ownership::{PartitionState, Step};
use crate::ingest::{Ingest, drain};
use crate::partitions::{self, TableEntry};
use crate::report::XdpError;
use crate::sync::lock;
use crate::sys::cpus;
use crate::sys::map::Map;
use crate::xdp::RunningProgram;

/// How long a receiver may take to read the datagrams that wait in its socket. It reads them
/// between two calls of its handler.
const RECEIVER_PATIENCE: Duration = Duration::from_secs(5);

/// The requests to drain a socket that unfinished moves have made. A repeated move waits for the
/// same request.
pub type DrainRequests = BTreeMap<(Partition, CpuIndex), u64>;

impl Ingest {
    /// Moves a partition to another of the configured CPUs, and returns when that CPU owns the
    /// partition. Traffic continues during the move: no datagram is lost, and no sender's
    /// datagrams are reordered.
    ///
    /// The new owner holds back the partition's datagrams until the former owner has passed on
    /// those in its own CPU queue and socket. The former owner does not have to handle these
    /// datagrams, so a partition can leave an overloaded CPU. With Linux 5.18 and CAP_NET_RAW the
    /// call can check that the former owner's queue is drained; otherwise the call waits 200 ms.
    /// The call blocks for some tens of milliseconds, and for at most about 10 seconds. During the
    /// call, other threads must run the receivers of both CPUs. These receivers continue to handle
    /// other partitions. Concurrent moves are serialized.
    ///
    /// If the partition is in an unfinished move, the call first completes that move. So a repeated
    /// call continues a failed move, and a call with the former owner's CPU moves the partition
    /// back.
    ///
    /// The order is kept for packets from the interface that carries XDP. During a move, the
    /// datagrams of senders on this machine or behind another interface may be reordered,
    /// because the kernel may process each of their packets on a different CPU. If one of the
    /// two CPUs goes offline during the move, the datagrams of every sender may be reordered.
    ///
    /// # Errors
    /// [`XdpError::UnknownPartition`], [`XdpError::UnknownCpu`].
    /// [`XdpError::HandOverInProgress`] while another process takes over.
    /// [`XdpError::NotMoved`] if the order could not be kept (if XDP steers and either a CPU is
    /// offline or receive packet steering is on), if no receiver of the former owner is in use,
    /// or if the former owner does not process its queue within 2 seconds or does not read its
    /// socket within 5 seconds, for example because one call of its handler takes longer. If the
    /// move had started before this error, the new owner holds back at most
    /// [`crate::Receiver::MAX_HELD`] of the partition's datagrams until a later call succeeds.
    /// [`XdpError::Kernel`] if the kernel refuses.
    pub fn move_partition(&self, partition: u32, cpu: u32) -> Result<(), XdpError> {
        let partition = self.partitions.partition(partition)?;
        let to = self.partitions.index_of(cpu)?;
        // Locked until the move ends, so that moves are serialized and no hand-over starts.
        let mut stage = lock(&self.stage);
        stage.check_serving()?;
        self.complete_move(partition)?;
        match self.ownership.owner(partition) {
            owner if owner == to => Ok(()),
            from => Migration { ingest: self, partition, from, to, step: None }.run(),
        }
    }

    /// Completes every move that an earlier call has started and not completed. The caller holds
    /// the lock on the stage.
    pub(super) fn complete_moves(&self) -> Result<(), XdpError> {
        self.partitions.all().try_for_each(|partition| self.complete_move(partition))
    }

    fn complete_move(&self, partition: Partition) -> Result<(), XdpError> {
        match self.ownership.state(partition) {
            PartitionState::Owned(_) => Ok(()),
            PartitionState::Moving { from, to, step } => {
                Migration { ingest: self, partition, from, to, step: Some(step) }.run()
            }
        }
    }
}

/// One partition's move.
struct Migration<'a> {
    ingest: &'a Ingest,
    partition: Partition,
    from: CpuIndex,
    to: CpuIndex,
    /// The last step that this call or an earlier one reached.
    step: Option<Step>,
}

impl<'a> Migration<'a> {
    fn run(mut self) -> Result<(), XdpError> {
        if !self.ingest.mailboxes.of(self.from).is_in_use() {
            let cpu = self.cpu(self.from);
            return Err(self.not_moved(format!(
                "no thread reads its socket; take `Ingest::receiver({cpu})` and call this again"
            )));
        }
        match self.ingest.sockets.table() {
            Some(table) => self.redirect_in_kernel(table)?,
            None => self.redirect_in_receivers()?,
        }
        // Called twice. Since Linux 6.18 a CPU may leave its datagram to another CPU, which then
        // puts it into the socket. That other CPU may start after the first call began, so only
        // the second call waits for it.
        drain::running_programs();
        drain::running_programs();
        self.drain_socket(self.from)?;
        self.complete();
        Ok(())
    }

    fn redirect_in_kernel(&mut self, table: &Map) -> Result<(), XdpError> {
        if self.step == Some(Step::SocketMoved) {
            return Ok(());
        }
        let program = self.steering_program();
        // An unfinished move is completed in any case: its datagrams wait for that.
        if let (Some(program), None) = (program, self.step) {
            self.check_order_can_be_kept(program)?;
        }
        let [old, new] = [self.from, self.to].map(|index| self.cpu(index));
        self.reach(Step::Announced);
        if let Some(program) = program {
            self.write_table(table, TableEntry { queue: Some(new), socket: old })?;
            self.reach(Step::QueueMoved);
            self.drain_queue(program, old, new)?;
        }
        self.write_table(table, TableEntry { queue: program.map(|_| new), socket: new })?;
        self.reach(Step::SocketMoved);
        Ok(())
    }

    /// Classic BPF always selects the socket of the partition's first owner. The receiver of that
    /// CPU hands the datagrams on, so a move changes nothing in the kernel. The first owner's
    /// socket is drained, because the datagrams that the first owner is handing to the old owner
    /// must arrive before the move completes.
    fn redirect_in_receivers(&mut self) -> Result<(), XdpError> {
        self.reach(Step::Announced);
        let start = self.ingest.partitions.initial_owner(self.partition);
        if start != self.from {
            self.drain_socket(start)?;
        }
        self.reach(Step::SocketMoved);
        Ok(())
    }

    fn steering_program(&self) -> Option<&'a RunningProgram> {
        let program = self.ingest.xdp.as_ref()?.program();
        program.steers.then_some(program)
    }

    /// Fails if packets could be reordered on their way through the CPU queues.
    fn check_order_can_be_kept(&self, program: &RunningProgram) -> Result<(), XdpError> {
        for cpu in [self.from, self.to].map(|index| self.cpu(index)) {
            if !cpus::is_online(cpu) {
                return Err(self.not_moved(format!(
                    "CPU {cpu} is offline, so other CPUs process its queue; call this again when \
                     it is online"
                )));
            }
        }
        let interface = program.attachment.interface();
        if interface.has_receive_packet_steering() {
            let name = &interface.name;
            return Err(self.not_moved(format!(
                "receive packet steering would move packets that XDP has steered; switch it off \
                 (write 0 to /sys/class/net/{name}/queues/rx-*/rps_cpus), then call this again"
            )));
        }
        Ok(())
    }

    fn write_table(&self, table: &Map, entry: TableEntry) -> Result<(), XdpError> {
        partitions::write_entry(table, self.partition, entry).inspect_err(|_| self.call_off())
    }

    /// Cancels the move if it has changed nothing in the kernel.
    fn call_off(&self) {
        if self.step == Some(Step::Announced) {
            self.ingest.ownership.set(self.partition, PartitionState::Owned(self.from));
        }
    }

    fn drain_queue(
        &self,
        program: &RunningProgram,
        old: CpuId,
        new: CpuId,
    ) -> Result<(), XdpError> {
        drain::running_programs();
        if drain::queue(&program.loaded, old) {
            return Ok(());
        }
        Err(self.not_moved(format!(
            "that CPU has not drained its queue within 2 s; find out what keeps it busy, then \
             call this again; until then CPU {new} holds back the datagrams that it gets"
        )))
    }

    fn drain_socket(&self, index: CpuIndex) -> Result<(), XdpError> {
        let mailbox = self.ingest.mailboxes.of(index);
        let mut requests = lock(&self.ingest.drain_requests);
        let request = requests.entry((self.partition, index));
        let request = *request.or_insert_with(|| mailbox.request_drain());
        drop(requests);
        if mailbox.wait_drained(request, RECEIVER_PATIENCE) {
            return Ok(());
        }
        let (cpu, patience) = (self.cpu(index), RECEIVER_PATIENCE.as_secs());
        Err(self.not_moved(format!(
            "the receiver of CPU {cpu} has not read its socket within {patience} s; if its thread \
             has ended, take `Ingest::receiver({cpu})`; if its handler is slow, wait; then call \
             this again"
        )))
    }

    fn complete(self) {
        lock(&self.ingest.drain_requests).retain(|(partition, _), _| *partition != self.partition);
        self.ingest.ownership.set(self.partition, PartitionState::Owned(self.to));
        self.ingest.mailboxes.of(self.to).wake();
    }

    /// Records a step, unless an earlier call has reached it already.
    fn reach(&mut self, step: Step) {
        if self.step >= Some(step) {
            return;
        }
        self.step = Some(step);
        let (from, to) = (self.from, self.to);
        self.ingest.ownership.set(self.partition, PartitionState::Moving { from, to, step });
    }

    fn cpu(&self, index: CpuIndex) -> CpuId {
        self.ingest.partitions.cpu(index)
    }

    fn not_moved(&self, problem: String) -> XdpError {
        let from = self.cpu(self.from).get();
        XdpError::NotMoved { partition: self.partition.get(), from, problem }
    }
}
