//! Where a receiver puts a datagram that it does not handle at once: into its ready or held
//! datagrams, or into another receiver's mailbox. These rules keep the order of each partition's
//! datagrams while the partition moves.
//!
//! A partition can change its owner at any time. Two rules make that safe:
//!
//! * The former owner passes on all older datagrams before the owner changes. So a receiver that
//!   sees itself as the owner must look for mail afterwards, and the mail comes first.
//! * A datagram waits if an older datagram of its partition waits.

use std::io;
use std::os::fd::AsFd;

use super::Receiver;
use crate::ids::Partition;
use crate::ingest::datagram::{OwnedDatagram, parse};
use crate::ingest::mailbox::{MAX_MAIL, Mail};
use crate::ingest::ownership::Role;
use crate::report::XdpError;

/// The number of ready datagrams at which a receiver takes no more mail, and reads no more
/// datagrams from its socket.
const MAX_READY: usize = MAX_MAIL;

impl Receiver {
    /// Whether this receiver has [`MAX_READY`] ready datagrams.
    pub(super) fn is_full(&self) -> bool {
        self.waiting.ready() >= MAX_READY
    }

    /// Takes the mail unless too many datagrams are ready, and passes datagrams on.
    pub(super) fn settle(&mut self) {
        if !self.is_full() {
            self.take_mail();
        }
        self.pass_on();
    }

    /// Takes the mail. Then releases the held datagrams of partitions whose move to this receiver
    /// has completed.
    fn take_mail(&mut self) {
        // The roles are read before the mail is taken. So the mail contains all older datagrams of
        // each partition that this receiver owns by these roles.
        let holding = self.waiting.partitions().into_iter().filter(|p| self.waiting.holds(*p));
        let roles: Vec<_> = holding.map(|p| (p, self.role(p))).collect();
        let mail = self.mailbox().take();
        let (older, newer): (Vec<_>, Vec<_>) = mail.into_iter().partition(|mail| mail.is_older);
        for Mail { datagram, .. } in older {
            match self.role(datagram.partition) {
                Role::Other(owner) => self.mailboxes.hand_on(self.index, owner, datagram),
                _ => self.waiting.push_ready(datagram),
            }
        }
        for (partition, role) in roles {
            if role != Role::NextOwner {
                self.waiting.release(partition);
            }
        }
        newer.into_iter().for_each(|mail| self.accept(mail.datagram));
    }

    /// Puts a datagram behind all older datagrams of its partition.
    pub(super) fn accept(&mut self, datagram: OwnedDatagram) {
        let partition = datagram.partition;
        match self.role(partition) {
            Role::Other(owner) if !self.waiting.contains(partition) => {
                self.mailboxes.hand_on(self.index, owner, datagram);
            }
            Role::NextOwner if self.waiting.held() >= Self::MAX_HELD => {
                self.mailboxes.count_dropped_held();
            }
            Role::NextOwner => self.waiting.push_held(datagram),
            // The move to this receiver may have just completed, and the next one started. Then the
            // mailbox may hold older datagrams, and the next call of `settle` releases the held
            // ones behind the mail.
            Role::Owner | Role::FormerOwner(_) if self.mailbox().has_mail() => {
                self.waiting.push_held(datagram);
            }
            // With classic BPF, a former owner gets datagrams after its drain. They must not become
            // ready: if the partition moves back, they are newer than mail of the other receiver.
            Role::FormerOwner(owner) if !self.waiting.contains(partition) => {
                if let Err(datagram) = self.mailboxes.pass_on(owner, datagram) {
                    self.waiting.push_held(datagram);
                }
            }
            _ if self.waiting.holds(partition) => self.waiting.push_held(datagram),
            _ => self.waiting.push_ready(datagram),
        }
    }

    /// Passes the ready datagrams of partitions that this receiver does not own any more to the
    /// receivers that own them.
    pub(super) fn pass_on(&mut self) {
        for partition in self.waiting.partitions() {
            match self.role(partition) {
                Role::Owner | Role::NextOwner => {}
                Role::Other(owner) => {
                    while let Some(datagram) = self.waiting.pop_ready_of(partition) {
                        self.mailboxes.hand_on(self.index, owner, datagram);
                    }
                }
                Role::FormerOwner(owner) => {
                    while let Some(datagram) = self.waiting.pop_ready_of(partition) {
                        if let Err(datagram) = self.mailboxes.pass_on(owner, datagram) {
                            self.waiting.put_back(datagram);
                            break;
                        }
                    }
                }
            }
        }
    }

    /// Takes all datagrams that wait in the socket, without handling them. A move waits for this,
    /// so it must not wait for the handler. Meets the request unless too many datagrams are ready;
    /// the next call then continues.
    pub(super) fn drain_socket(&mut self, request: u64) -> Result<(), XdpError> {
        self.accept_batch();
        let mut is_drained = self.drain.is_drained(request);
        while !is_drained && !self.is_full() {
            let is_empty = !self.read_batch()?;
            is_drained = self.drain.record(request, self.batch.len(), is_empty);
            self.accept_batch();
        }
        self.settle();
        if is_drained && !self.has_datagrams_to_pass_on() {
            self.drain.meet();
            self.mailbox().meet_drain_request(request);
        }
        Ok(())
    }

    /// Whether a datagram of a partition that moves away waits in this receiver.
    fn has_datagrams_to_pass_on(&self) -> bool {
        let moves_away = |p: Partition| matches!(self.role(p), Role::FormerOwner(_));
        self.waiting.partitions().into_iter().any(moves_away)
    }

    /// Accepts the datagrams of the batch that are not handled yet.
    fn accept_batch(&mut self) {
        while let Some(datagram) = self.next_of_batch() {
            self.accept(datagram);
        }
    }

    /// Takes the next datagram of the batch that is not handled yet.
    pub(super) fn next_of_batch(&mut self) -> Option<OwnedDatagram> {
        while self.next < self.batch.len() {
            let datagram = self.batch.get(self.next);
            let datagram =
                datagram.and_then(|(from, bytes)| parse(from, bytes, self.ownership.count()));
            self.next += 1;
            if let Some(datagram) = datagram {
                return Some(datagram.into());
            }
        }
        None
    }

    /// Reads a batch from the socket. Returns false if no datagram waits.
    pub(super) fn read_batch(&mut self) -> Result<bool, XdpError> {
        self.next = 0;
        loop {
            match self.batch.receive(self.socket.as_fd()) {
                Ok(()) => return Ok(true),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    let action = format!("read the socket of CPU {}", self.cpu);
                    return Err(XdpError::socket(action, error));
                }
            }
        }
    }

    pub(super) fn role(&self, partition: Partition) -> Role {
        self.ownership.role(partition, self.index)
    }
}
