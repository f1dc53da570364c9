//! The datagrams that a receiver holds back while their partitions move to it.

use std::collections::VecDeque;

use crate::ids::Partition;
use crate::ingest::datagram::OwnedDatagram;

/// The datagrams of each partition that is moving to this receiver, in the order of their
/// arrival. Only a few partitions move at a time, so searching a list is faster than a map.
#[derive(Default)]
pub struct Held(Vec<(Partition, VecDeque<OwnedDatagram>)>);

impl Held {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The number of datagrams.
    pub fn len(&self) -> usize {
        self.0.iter().map(|(_, datagrams)| datagrams.len()).sum()
    }

    pub fn push(&mut self, datagram: OwnedDatagram) {
        let partition = datagram.partition;
        match self.0.iter_mut().find(|(other, _)| *other == partition) {
            Some((_, datagrams)) => datagrams.push_back(datagram),
            None => self.0.push((partition, VecDeque::from([datagram]))),
        }
    }

    /// Takes the oldest datagram of a partition.
    pub fn pop(&mut self, partition: Partition) -> Option<OwnedDatagram> {
        let at = self.0.iter().position(|(other, _)| *other == partition)?;
        let datagram = self.0[at].1.pop_front();
        if self.0[at].1.is_empty() {
            self.0.swap_remove(at);
        }
        datagram
    }

    pub fn contains(&self, partition: Partition) -> bool {
        self.0.iter().any(|(other, _)| *other == partition)
    }

    pub fn partitions(&self) -> Vec<Partition> {
        self.0.iter().map(|(partition, _)| *partition).collect()
    }

    /// Takes all datagrams, one partition after another. Each partition's datagrams keep the
    /// order of their arrival.
    pub fn take_all(&mut self) -> impl Iterator<Item = OwnedDatagram> {
        std::mem::take(&mut self.0).into_iter().flat_map(|(_, datagrams)| datagrams)
    }
}
