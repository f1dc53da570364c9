//! Which CPU owns each partition, and which step a move has reached. Receivers read this state
//! for each datagram. During a move, `migration` changes this state and the table in the kernel
//! together, step by step, so that the two agree.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::ids::{CpuIndex, Partition};

/// The owner of a partition, or the move that it is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PartitionState {
    Owned(CpuIndex),
    /// The partition is moving. The receiver of `from` still handles the partition's datagrams.
    /// The receiver of `to` holds back the datagrams that it gets.
    Moving {
        from: CpuIndex,
        to: CpuIndex,
        step: Step,
    },
}

/// The last step that a move has reached. Repeating a failed move continues after this step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// Receivers know of the move. Nothing has changed in the kernel.
    Announced = 1,
    /// XDP redirects to the new CPU's queue; the old CPU's queue may still hold packets.
    QueueMoved = 2,
    /// No new datagram reaches the old socket; some may still wait in it.
    SocketMoved = 3,
}

/// What one CPU's receiver does with a partition's datagrams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The receiver handles them.
    Owner,
    /// The receiver passes them on to the receiver of the given CPU, which handles them before
    /// the datagrams that it holds back. No new datagram reaches this receiver's socket.
    FormerOwner(CpuIndex),
    /// The receiver holds them back until the present owner has handled all earlier datagrams.
    NextOwner,
    /// The receiver hands them on to the receiver of the given CPU.
    Other(CpuIndex),
}

/// The state of every partition. [`Ownership::role`] is one atomic load.
#[derive(Debug)]
pub struct Ownership {
    /// Bits 0 to 15: the present owner. Bits 16 to 31: during a move the next owner, otherwise
    /// the present owner as well. Bits 32 and up: the step of the move, or 0 if the partition is
    /// not moving.
    states: Vec<AtomicU64>,
}

impl Ownership {
    pub fn new(owners: impl IntoIterator<Item = CpuIndex>) -> Ownership {
        let states = owners.into_iter().map(PartitionState::Owned);
        Ownership { states: states.map(|state| AtomicU64::new(pack(state))).collect() }
    }

    /// The number of partitions.
    pub fn count(&self) -> u32 {
        self.states.len() as u32
    }

    pub fn state(&self, partition: Partition) -> PartitionState {
        let packed = self.load(partition);
        let (from, to) = owners(packed);
        let step = match packed >> 32 {
            0 => return PartitionState::Owned(from),
            1 => Step::Announced,
            2 => Step::QueueMoved,
            _ => Step::SocketMoved,
        };
        PartitionState::Moving { from, to, step }
    }

    pub fn set(&self, partition: Partition, state: PartitionState) {
        self.states[partition.get() as usize].store(pack(state), Ordering::Release);
    }

    /// What the receiver of a CPU does with a partition's datagrams.
    pub fn role(&self, partition: Partition, receiver: CpuIndex) -> Role {
        let state = self.load(partition);
        match owners(state) {
            (from, to) if from == receiver && is_socket_moved(state) => Role::FormerOwner(to),
            (from, _) if from == receiver => Role::Owner,
            (_, to) if to == receiver => Role::NextOwner,
            (_, to) => Role::Other(to),
        }
    }

    /// The CPU that handles a partition now.
    pub fn owner(&self, partition: Partition) -> CpuIndex {
        owners(self.load(partition)).0
    }

    /// The CPU that handles each partition now, ordered by partition.
    pub fn owners(&self) -> Vec<CpuIndex> {
        (0..self.count()).map(|partition| self.owner(Partition::new(partition))).collect()
    }

    fn load(&self, partition: Partition) -> u64 {
        self.states[partition.get() as usize].load(Ordering::Acquire)
    }
}

fn owners(packed: u64) -> (CpuIndex, CpuIndex) {
    (CpuIndex::new(packed as u16), CpuIndex::new((packed >> 16) as u16))
}

fn is_socket_moved(packed: u64) -> bool {
    packed >> 32 == Step::SocketMoved as u64
}

fn pack(state: PartitionState) -> u64 {
    let (from, to, step) = match state {
        PartitionState::Owned(owner) => (owner, owner, 0),
        PartitionState::Moving { from, to, step } => (from, to, step as u64),
    };
    step << 32 | u64::from(to.get()) << 16 | u64::from(from.get())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_is_read_back() {
        let [low, high] = [0, u16::MAX].map(CpuIndex::new);
        let ownership = Ownership::new([low, high]);
        let steps = [Step::Announced, Step::QueueMoved, Step::SocketMoved];
        let moving = steps.map(|step| PartitionState::Moving { from: low, to: high, step });
        let owned = [low, high].map(PartitionState::Owned);
        for state in owned.into_iter().chain(moving) {
            ownership.set(Partition::new(1), state);
            assert_eq!(ownership.state(Partition::new(1)), state);
            assert_eq!(ownership.state(Partition::new(0)), PartitionState::Owned(low));
        }
    }

    #[test]
    fn roles_follow_the_move() {
        let [from, to, third] = [0, 1, 2].map(CpuIndex::new);
        let (ownership, partition) = (Ownership::new([from]), Partition::new(0));
        let roles = || [from, to, third].map(|receiver| ownership.role(partition, receiver));
        assert_eq!(roles(), [Role::Owner, Role::Other(from), Role::Other(from)]);
        let step = Step::QueueMoved;
        ownership.set(partition, PartitionState::Moving { from, to, step });
        assert_eq!(roles(), [Role::Owner, Role::NextOwner, Role::Other(to)]);
        let step = Step::SocketMoved;
        ownership.set(partition, PartitionState::Moving { from, to, step });
        assert_eq!(roles(), [Role::FormerOwner(to), Role::NextOwner, Role::Other(to)]);
        ownership.set(partition, PartitionState::Owned(to));
        assert_eq!(roles(), [Role::Other(to), Role::Owner, Role::Other(to)]);
    }
}
