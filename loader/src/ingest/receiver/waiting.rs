//! The datagrams that a receiver has taken from its socket or its mailbox and has not handled.

use std::collections::{BTreeMap, VecDeque};

use crate::ids::Partition;
use crate::ingest::datagram::OwnedDatagram;

/// The waiting datagrams of each partition. The datagrams of a partition leave in the order in
/// which they came in.
#[derive(Default)]
pub struct Waiting {
    partitions: BTreeMap<Partition, Queues>,
    /// The number of datagrams that are ready.
    ready: usize,
    /// The number of datagrams that are held back.
    held: usize,
    /// The partition whose turn it is. [`Waiting::pop_ready`] serves the partitions round robin,
    /// so that a partition with many datagrams does not delay the others.
    turn: Partition,
}

/// The waiting datagrams of one partition. Every ready datagram is older than every held one.
#[derive(Default)]
struct Queues {
    ready: VecDeque<OwnedDatagram>,
    held: VecDeque<OwnedDatagram>,
}

impl Waiting {
    /// The number of datagrams that are ready.
    pub fn ready(&self) -> usize {
        self.ready
    }

    /// The number of datagrams that are held back.
    pub fn held(&self) -> usize {
        self.held
    }

    /// Whether a datagram of the partition waits. A newer datagram must then wait as well.
    pub fn contains(&self, partition: Partition) -> bool {
        self.partitions.contains_key(&partition)
    }

    /// Whether a datagram of the partition is held back.
    pub fn holds(&self, partition: Partition) -> bool {
        self.partitions.get(&partition).is_some_and(|queues| !queues.held.is_empty())
    }

    pub fn push_ready(&mut self, datagram: OwnedDatagram) {
        self.ready += 1;
        self.partitions.entry(datagram.partition).or_default().ready.push_back(datagram);
    }

    pub fn push_held(&mut self, datagram: OwnedDatagram) {
        self.held += 1;
        self.partitions.entry(datagram.partition).or_default().held.push_back(datagram);
    }

    /// The partitions of the waiting datagrams.
    pub fn partitions(&self) -> Vec<Partition> {
        self.partitions.keys().copied().collect()
    }

    /// Makes the held datagrams of a partition ready.
    pub fn release(&mut self, partition: Partition) {
        if let Some(queues) = self.partitions.get_mut(&partition) {
            self.ready += queues.held.len();
            self.held -= queues.held.len();
            queues.ready.append(&mut queues.held);
        }
    }

    /// Takes the oldest ready datagram of the next partition that `may_leave` accepts.
    pub fn pop_ready(&mut self, may_leave: impl Fn(Partition) -> bool) -> Option<OwnedDatagram> {
        let from_turn =
            self.partitions.range(self.turn..).chain(self.partitions.range(..self.turn));
        let ready = from_turn.filter(|(_, queues)| !queues.ready.is_empty());
        let partition = ready.map(|(partition, _)| *partition).find(|p| may_leave(*p))?;
        self.turn = Partition::new(partition.get().wrapping_add(1));
        self.pop_ready_of(partition)
    }

    /// Takes the oldest ready datagram of a partition.
    pub fn pop_ready_of(&mut self, partition: Partition) -> Option<OwnedDatagram> {
        let queues = self.partitions.get_mut(&partition)?;
        let datagram = queues.ready.pop_front()?;
        self.ready -= 1;
        if queues.ready.is_empty() && queues.held.is_empty() {
            self.partitions.remove(&partition);
        }
        Some(datagram)
    }

    /// Puts a datagram back that [`Waiting::pop_ready_of`] has just taken.
    pub fn put_back(&mut self, datagram: OwnedDatagram) {
        self.ready += 1;
        self.partitions.entry(datagram.partition).or_default().ready.push_front(datagram);
    }

    /// Takes all datagrams: the ready ones, then the held ones.
    pub fn take_all(&mut self) -> (Vec<OwnedDatagram>, Vec<OwnedDatagram>) {
        let (mut ready, mut held) = (Vec::new(), Vec::new());
        for queues in std::mem::take(&mut self.partitions).into_values() {
            ready.extend(queues.ready);
            held.extend(queues.held);
        }
        (self.ready, self.held) = (0, 0);
        (ready, held)
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::report::Datagram;

    fn datagram(partition: u32, number: u8) -> OwnedDatagram {
        let sender = SocketAddr::from(([192, 0, 2, 1], 7));
        Datagram::new(partition, partition, sender, &[number]).into()
    }

    fn number(datagram: &OwnedDatagram) -> u8 {
        datagram.as_datagram().payload[0]
    }

    #[test]
    fn partitions_are_served_in_turn_and_each_in_order() {
        let mut waiting = Waiting::default();
        for (partition, number) in [(1, 10), (1, 11), (1, 12), (5, 50), (9, 90)] {
            waiting.push_ready(datagram(partition, number));
        }
        let pop = || waiting.pop_ready(|partition| partition.get() != 9);
        let seen: Vec<_> = std::iter::from_fn(pop).map(|datagram| number(&datagram)).collect();
        assert_eq!(seen, [10, 50, 11, 12]);
        assert_eq!((waiting.ready(), waiting.partitions().len()), (1, 1));
    }

    #[test]
    fn released_datagrams_follow_the_ready_ones() {
        let (mut waiting, partition) = (Waiting::default(), Partition::new(3));
        waiting.push_held(datagram(3, 2));
        waiting.push_ready(datagram(3, 1));
        assert_eq!((waiting.ready(), waiting.held()), (1, 1));
        assert!(waiting.holds(partition));
        waiting.release(partition);
        let first = waiting.pop_ready_of(partition).unwrap();
        assert_eq!(number(&first), 1);
        waiting.put_back(first);
        let (ready, held) = waiting.take_all();
        assert_eq!((ready.iter().map(number).collect::<Vec<_>>(), held.len()), (vec![1, 2], 0));
        assert!(!waiting.contains(partition));
    }
}
