//! The steps of one CPU's receiver: the calls of `Receiver::receive`.

use super::state::{At, Cpu, Datagram, MOVING, Mail, RECEIVERS, Role, STAYING, State};
use super::{Mistake, Moves, Steps};
use crate::explore::Kind;

/// The most datagrams that one read takes, unless a drain is requested.
const BATCH: usize = 2;

impl Moves {
    pub(super) fn receiver(&self, state: &State, cpu: Cpu, steps: &mut Steps) {
        let (name, receiver) = (RECEIVERS[cpu], &state.receivers[cpu]);
        if !receiver.is_in_use {
            steps.add(state, name, "take the receiver", Kind::Fair, |next| {
                next.receivers[cpu].is_in_use = true;
                next.mailboxes[cpu].is_woken = true;
            });
            return;
        }
        if let Some((mail, to)) = receiver.in_hand {
            steps.add(state, name, "put into a mailbox", Kind::Fair, |next| {
                next.receivers[cpu].in_hand = None;
                next.mailboxes[to].mail.push(mail);
                next.mailboxes[to].is_woken = true;
            });
            return;
        }
        // A panic of the handler drops the receiver in the middle of a call.
        if state.drops < self.drops {
            steps.add(state, name, "drop the receiver", Kind::Chance, |next| {
                next.drops += 1;
                self.drop_receiver(next, cpu);
            });
        }
        let role_first = self.has(Mistake::RequestReadAfterRole);
        match receiver.at {
            At::Outside => self.outside(state, cpu, steps),
            At::RequestRead => {
                let what = if role_first { "read the drain request" } else { "read the role" };
                steps.add(state, name, what, Kind::Fair, |next| {
                    match role_first {
                        true => next.receivers[cpu].request = next.mailboxes[cpu].requested,
                        false => self.read_role(next, cpu),
                    }
                    next.receivers[cpu].at = At::RoleRead;
                });
            }
            At::RoleRead => self.role_read(state, cpu, steps),
            At::MailTaken if !receiver.mail.is_empty() => {
                steps.add(state, name, "dispatch a datagram of the mail", Kind::Fair, |next| {
                    let mail = next.receivers[cpu].mail.remove(0);
                    self.dispatch(next, cpu, mail);
                });
            }
            At::MailTaken => self.release_held(state, cpu, steps),
            At::HeldReleased => {
                steps.add(state, name, "read the socket", Kind::Fair, |next| {
                    self.read_socket(next, cpu);
                });
            }
            At::SocketRead if !receiver.batch.is_empty() => {
                steps.add(state, name, "dispatch a datagram of the batch", Kind::Fair, |next| {
                    let datagram = next.receivers[cpu].batch.remove(0);
                    self.dispatch(next, cpu, Mail { datagram, is_older: false });
                });
            }
            At::SocketRead => {
                steps.add(state, name, "report the drain request", Kind::Fair, |next| {
                    let receiver = &mut next.receivers[cpu];
                    receiver.at = At::Outside;
                    let mailbox = &mut next.mailboxes[cpu];
                    mailbox.met = mailbox.met.max(receiver.request);
                    // The next call starts with a clean state, so that equal calls are equal.
                    receiver.request = 0;
                    receiver.role = Role::Owner;
                    receiver.completed = 0;
                });
            }
        }
    }

    fn read_role(&self, next: &mut State, cpu: Cpu) {
        next.receivers[cpu].role = next.role(cpu);
        next.receivers[cpu].completed = next.completed;
    }

    /// Between two calls: a call starts if there is something to do.
    fn outside(&self, state: &State, cpu: Cpu, steps: &mut Steps) {
        let (name, receiver) = (RECEIVERS[cpu], &state.receivers[cpu]);
        let is_paused = self.has(Mistake::HeldStopsSocket) && !receiver.held.is_empty();
        let socket_is_readable = !state.sockets[cpu].is_empty() && !is_paused;
        if state.mailboxes[cpu].is_woken || socket_is_readable {
            let role_first = self.has(Mistake::RequestReadAfterRole);
            let what = if role_first { "read the role" } else { "read the drain request" };
            steps.add(state, name, what, Kind::Fair, |next| {
                next.mailboxes[cpu].is_woken = false;
                match role_first {
                    true => self.read_role(next, cpu),
                    false => next.receivers[cpu].request = next.mailboxes[cpu].requested,
                }
                next.receivers[cpu].at = At::RequestRead;
            });
        }
        for partition in [MOVING, STAYING] {
            let of_partition = |datagram: &Datagram| datagram.partition == partition;
            if let Some(at) = receiver.ready.iter().position(of_partition) {
                steps.add(state, name, "handle a ready datagram", Kind::Fair, |next| {
                    let datagram = next.receivers[cpu].ready.remove(at);
                    next.handle(datagram);
                });
            }
        }
    }

    /// A former owner passes its ready queue on before anything else. Then the mail is taken. A
    /// dropped receiver may have left newer datagrams in front of older ones.
    fn role_read(&self, state: &State, cpu: Cpu, steps: &mut Steps) {
        let (name, receiver) = (RECEIVERS[cpu], &state.receivers[cpu]);
        let moving = |datagram: &Datagram| datagram.partition == MOVING;
        let ready = receiver.ready.iter().position(moving);
        let passes_on = !self.has(Mistake::ReadyQueueNotPassedOn);
        if let (Role::FormerOwner(to), Some(at), true) = (receiver.role, ready, passes_on) {
            steps.add(state, name, "pass a ready datagram on", Kind::Fair, |next| {
                let datagram = next.receivers[cpu].ready.remove(at);
                let mail = Mail { datagram, is_older: !self.has(Mistake::OlderNotMarked) };
                next.receivers[cpu].in_hand = Some((mail, to));
            });
            return;
        }
        steps.add(state, name, "take the mail", Kind::Fair, |next| {
            let mut mail = std::mem::take(&mut next.mailboxes[cpu].mail);
            if !self.has(Mistake::MailNotOrderedByMark) {
                mail.sort_by_key(|mail| !mail.is_older);
            }
            next.receivers[cpu].mail = mail;
            next.receivers[cpu].at = At::MailTaken;
        });
    }

    fn release_held(&self, state: &State, cpu: Cpu, steps: &mut Steps) {
        let (name, receiver) = (RECEIVERS[cpu], &state.receivers[cpu]);
        let role = self.role_for_datagram(state, cpu);
        if role == Role::NextOwner || receiver.held.is_empty() {
            steps.add(state, name, "keep what is held", Kind::Fair, |next| {
                next.receivers[cpu].at = At::HeldReleased;
            });
            return;
        }
        steps.add(state, name, "release a held datagram", Kind::Fair, |next| {
            let datagram = next.receivers[cpu].held.remove(0);
            self.by_role(next, cpu, Mail { datagram, is_older: false }, role);
        });
    }

    fn read_socket(&self, next: &mut State, cpu: Cpu) {
        let drains = next.receivers[cpu].request > next.mailboxes[cpu].met;
        let socket = &mut next.sockets[cpu];
        let count = match drains {
            true => socket.len(),
            false => socket.len().min(BATCH),
        };
        let is_paused =
            self.has(Mistake::HeldStopsSocket) && !next.receivers[cpu].held.is_empty() && !drains;
        if !is_paused {
            next.receivers[cpu].batch = socket.drain(..count).collect();
        }
        next.receivers[cpu].at = At::SocketRead;
    }

    fn dispatch(&self, next: &mut State, cpu: Cpu, mail: Mail) {
        let receiver = &mut next.receivers[cpu];
        if mail.datagram.partition == STAYING {
            match cpu == self.other_owner {
                true => receiver.ready.push(mail.datagram),
                false => receiver.in_hand = Some((mail, self.other_owner)),
            }
        } else if !mail.is_older && !receiver.held.is_empty() {
            receiver.held.push(mail.datagram);
        } else {
            let role = self.role_for_datagram(next, cpu);
            self.by_role(next, cpu, mail, role);
        }
    }

    /// What the receiver does with a datagram. The role may have changed since the call began.
    fn role_for_datagram(&self, state: &State, cpu: Cpu) -> Role {
        use Role::{FormerOwner, NextOwner, Other, Owner};
        let now = state.role(cpu);
        if self.has(Mistake::RoleReadAfterMail) {
            return now;
        }
        let receiver = &state.receivers[cpu];
        let is_same_move =
            receiver.completed == state.completed || self.has(Mistake::CompletedMovesNotCounted);
        match (receiver.role, now) {
            _ if self.has(Mistake::RoleReadOncePerCall) => state.receivers[cpu].role,
            // Older datagrams may have come by mail since the mail was taken. The end of the move
            // has woken this receiver again.
            (NextOwner | Other(_), Owner | FormerOwner(_)) => NextOwner,
            // The partition has moved away and back during this call.
            (_, Owner | FormerOwner(_)) if !is_same_move => NextOwner,
            // The ready queue has to be passed on first. The next call does so.
            (Owner, FormerOwner(_)) => Owner,
            _ => now,
        }
    }

    fn by_role(&self, next: &mut State, cpu: Cpu, mail: Mail, role: Role) {
        let receiver = &mut next.receivers[cpu];
        match role {
            Role::Owner => receiver.ready.push(mail.datagram),
            Role::NextOwner if mail.is_older => receiver.ready.push(mail.datagram),
            Role::NextOwner => receiver.held.push(mail.datagram),
            Role::FormerOwner(to) => {
                let is_older = !self.has(Mistake::OlderNotMarked);
                receiver.in_hand = Some((Mail { is_older, ..mail }, to));
            }
            Role::Other(owner) => {
                receiver.in_hand = Some((Mail { is_older: false, ..mail }, owner));
            }
        }
    }

    /// Puts everything that the receiver has not handled in front of its mail.
    fn drop_receiver(&self, next: &mut State, cpu: Cpu) {
        let receiver = &mut next.receivers[cpu];
        let is_marked = !self.has(Mistake::MarkLostWithReceiver);
        let ready = receiver.ready.drain(..);
        let mut left: Vec<_> =
            ready.map(|datagram| Mail { datagram, is_older: is_marked }).collect();
        let unmarked = |datagram| Mail { datagram, is_older: false };
        left.extend(receiver.held.drain(..).map(unmarked));
        left.append(&mut receiver.mail);
        left.extend(receiver.batch.drain(..).map(unmarked));
        receiver.is_in_use = false;
        receiver.at = At::Outside;
        receiver.request = 0;
        receiver.role = Role::Owner;
        receiver.completed = 0;
        let mail = &mut next.mailboxes[cpu].mail;
        match self.has(Mistake::UnhandledBehindMail) {
            true => mail.extend(left),
            false => drop(mail.splice(..0, left)),
        }
    }
}
