//! The steps of one CPU's receiver: the calls of `Receiver::receive`.

use super::state::{At, Cpu, Datagram, MOVING, Mail, RECEIVERS, Role, STAYING, State, Then};
use super::{Mistake, Moves, Steps};
use crate::explore::Kind;

/// The most datagrams that one read takes.
const BATCH: usize = 2;

impl Moves {
    pub(super) fn receiver(&self, state: &State, cpu: Cpu, steps: &mut Steps) {
        let (name, receiver) = (RECEIVERS[cpu], &state.receivers[cpu]);
        if !receiver.is_in_use {
            steps.add(state, name, "take the receiver", Kind::Fair, |next| {
                next.receivers[cpu].is_in_use = true;
                let mailbox = &mut next.mailboxes[cpu];
                mailbox.is_woken |= !mailbox.mail.is_empty() || mailbox.met < mailbox.requested;
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
        // Only the handler can panic. So a receiver is dropped between two calls, or while it
        // handles a datagram.
        let may_be_dropped = matches!(receiver.at, At::Outside | At::HandlingReady | At::Batch);
        if may_be_dropped && state.drops < self.drops {
            steps.add(state, name, "drop the receiver", Kind::Chance, |next| {
                next.drops += 1;
                self.drop_receiver(next, cpu);
            });
        }
        match receiver.at {
            At::Outside => self.outside(state, cpu, steps),
            At::RolesToRead(_)
            | At::MailToTake(_)
            | At::OlderMail(_)
            | At::NewerMail(_)
            | At::PassingOn(..) => self.settle(state, cpu, steps),
            At::Draining => self.draining(state, cpu, steps),
            At::Reporting => {
                steps.add(state, name, "report the drain request", Kind::Fair, |next| {
                    self.report(next, cpu);
                })
            }
            At::HandlingReady => self.handling_ready(state, cpu, steps),
            At::SocketToRead => steps.add(state, name, "read the socket", Kind::Fair, |next| {
                read_socket(next, cpu);
                next.receivers[cpu].at = At::Batch;
            }),
            At::Batch => self.batch(state, cpu, steps),
            At::IsOwner(is_owner) => {
                steps.add(
                    state,
                    name,
                    "look for mail, then use the datagram",
                    Kind::Fair,
                    |next| {
                        self.use_datagram(next, cpu, is_owner);
                    },
                );
            }
            At::ToAccept => steps.add(state, name, "accept a datagram", Kind::Fair, |next| {
                let datagram = next.receivers[cpu].batch.remove(0);
                next.receivers[cpu].at = At::Batch;
                self.accept(next, cpu, datagram);
            }),
        }
    }

    /// Between two calls: the application calls if the descriptor is readable, and until nothing
    /// is ready.
    fn outside(&self, state: &State, cpu: Cpu, steps: &mut Steps) {
        let receiver = &state.receivers[cpu];
        let is_paused = self.has(Mistake::HeldStopsSocket) && !receiver.held.is_empty();
        let socket_is_readable = !state.sockets[cpu].is_empty() && !is_paused;
        let has_work = state.mailboxes[cpu].is_woken
            || socket_is_readable
            || !receiver.ready.is_empty()
            || !receiver.batch.is_empty();
        // Without work, the end of a timeout starts a call.
        if !has_work && state.timeouts == self.timeouts {
            return;
        }
        let kind = if has_work { Kind::Fair } else { Kind::Chance };
        steps.add(state, RECEIVERS[cpu], "read the drain request", kind, |next| {
            next.timeouts += u8::from(!has_work);
            next.mailboxes[cpu].is_woken = false;
            next.receivers[cpu].request = next.mailboxes[cpu].requested;
            next.receivers[cpu].at = At::RolesToRead(Then::Drain);
        });
    }

    /// Takes everything from the socket without handling it.
    fn draining(&self, state: &State, cpu: Cpu, steps: &mut Steps) {
        let name = RECEIVERS[cpu];
        if !state.receivers[cpu].batch.is_empty() {
            steps.add(state, name, "accept a datagram of the socket", Kind::Fair, |next| {
                let datagram = next.receivers[cpu].batch.remove(0);
                self.accept(next, cpu, datagram);
            });
        } else {
            steps.add(state, name, "read the socket to drain it", Kind::Fair, |next| {
                read_socket(next, cpu);
                if next.receivers[cpu].batch.is_empty() {
                    next.receivers[cpu].at = At::RolesToRead(Then::Report);
                }
            });
        }
    }

    /// Reports the request unless a datagram that has to be passed on still waits.
    fn report(&self, next: &mut State, cpu: Cpu) {
        let moves_away = matches!(next.role(cpu), Role::FormerOwner(_));
        let receiver = &mut next.receivers[cpu];
        let moving = |datagram: &Datagram| datagram.partition == MOVING;
        let waits = receiver.ready.iter().any(moving) || !receiver.held.is_empty();
        if !(moves_away && waits) {
            let request = match self.has(Mistake::RequestReadLate) {
                true => next.mailboxes[cpu].requested,
                false => receiver.request,
            };
            next.mailboxes[cpu].met = request;
        }
        next.receivers[cpu].at = At::HandlingReady;
    }

    /// Handles one ready datagram, of any partition that the receiver owns.
    fn handling_ready(&self, state: &State, cpu: Cpu, steps: &mut Steps) {
        let receiver = &state.receivers[cpu];
        let is_own = |partition| {
            partition == STAYING
                || matches!(state.role(cpu), Role::Owner | Role::NextOwner)
                || self.has(Mistake::ReadyQueueNotPassedOn)
        };
        let mut handles = false;
        for partition in [MOVING, STAYING].into_iter().filter(|partition| is_own(*partition)) {
            let of_partition = |datagram: &Datagram| datagram.partition == partition;
            if let Some(at) = receiver.ready.iter().position(of_partition) {
                handles = true;
                steps.add(state, RECEIVERS[cpu], "handle a ready datagram", Kind::Fair, |next| {
                    let datagram = next.receivers[cpu].ready.remove(at);
                    next.handle(datagram);
                    next.receivers[cpu].at = self.after_ready(next, cpu);
                });
            }
        }
        if !handles {
            steps.add(state, RECEIVERS[cpu], "nothing is ready", Kind::Fair, |next| {
                next.receivers[cpu].at = self.after_ready(next, cpu);
            });
        }
    }

    fn after_ready(&self, state: &State, cpu: Cpu) -> At {
        let receiver = &state.receivers[cpu];
        let is_paused = self.has(Mistake::HeldStopsSocket) && !receiver.held.is_empty();
        if is_paused || !receiver.batch.is_empty() { At::Batch } else { At::SocketToRead }
    }

    fn batch(&self, state: &State, cpu: Cpu, steps: &mut Steps) {
        let name = RECEIVERS[cpu];
        if state.receivers[cpu].batch.is_empty() {
            steps.add(state, name, "the call returns", Kind::Fair, |next| {
                let receiver = &mut next.receivers[cpu];
                receiver.at = At::Outside;
                receiver.request = 0;
            });
        } else if self.has(Mistake::MailLookedForBeforeRole) {
            steps.add(state, name, "look for mail", Kind::Fair, |next| {
                let has_mail = !next.mailboxes[cpu].mail.is_empty();
                next.receivers[cpu].at = match has_mail {
                    true => At::RolesToRead(Then::Accept),
                    false => At::IsOwner(true),
                };
            });
        } else {
            steps.add(state, name, "read the role of a datagram", Kind::Fair, |next| {
                let datagram = next.receivers[cpu].batch[0];
                let is_owner = self.role_of(next, cpu, datagram) == Role::Owner;
                next.receivers[cpu].at = At::IsOwner(is_owner);
            });
        }
    }

    /// Handles the datagram at once if nothing older waits and no mail has come.
    fn use_datagram(&self, next: &mut State, cpu: Cpu, is_owner: bool) {
        let datagram = next.receivers[cpu].batch[0];
        let late_role = self.has(Mistake::MailLookedForBeforeRole);
        let is_owner = match late_role {
            true => self.role_of(next, cpu, datagram) == Role::Owner,
            false => is_owner,
        };
        let asks = !late_role && !self.has(Mistake::MailNotLookedFor);
        let has_mail = asks && !next.mailboxes[cpu].mail.is_empty();
        if is_owner && !has_mail && !waits(next, cpu, datagram) {
            next.receivers[cpu].batch.remove(0);
            next.receivers[cpu].at = At::Batch;
            next.handle(datagram);
        } else {
            next.receivers[cpu].at = match has_mail {
                true => At::RolesToRead(Then::Accept),
                false => At::ToAccept,
            };
        }
    }

    /// `Receiver::accept`: puts a datagram behind all older datagrams of its partition.
    pub(super) fn accept(&self, next: &mut State, cpu: Cpu, datagram: Datagram) {
        let role = self.role_of(next, cpu, datagram);
        let has_mail = !next.mailboxes[cpu].mail.is_empty() && !self.has(Mistake::MailNotLookedFor);
        let contains = waits(next, cpu, datagram);
        let is_moving = datagram.partition == MOVING;
        let passes_on_at_once = !self.has(Mistake::FormerOwnerKeepsReady);
        let owner_alone = self.has(Mistake::MailNotLookedForByFormerOwner);
        let receiver = &mut next.receivers[cpu];
        match role {
            Role::Other(owner) if !contains => hand_on(next, cpu, owner, datagram),
            Role::NextOwner => receiver.held.push(datagram),
            Role::FormerOwner(owner) if !contains && !has_mail && passes_on_at_once => {
                let is_older = !self.has(Mistake::OlderNotMarked);
                receiver.in_hand = Some((Mail { datagram, is_older }, owner));
            }
            Role::Owner if has_mail && is_moving => receiver.held.push(datagram),
            Role::FormerOwner(_) if has_mail && !owner_alone => receiver.held.push(datagram),
            _ if is_moving && !receiver.held.is_empty() => receiver.held.push(datagram),
            _ => receiver.ready.push(datagram),
        }
    }

    pub(super) fn role_of(&self, state: &State, cpu: Cpu, datagram: Datagram) -> Role {
        match datagram.partition {
            MOVING => state.role(cpu),
            _ if cpu == self.other_owner => Role::Owner,
            _ => Role::Other(self.other_owner),
        }
    }

    /// Puts everything that the receiver has not handled in front of its mail.
    fn drop_receiver(&self, next: &mut State, cpu: Cpu) {
        let receiver = &mut next.receivers[cpu];
        let is_marked = !self.has(Mistake::MarkLostWithReceiver);
        let ready = receiver.ready.drain(..);
        let mut left: Vec<_> =
            ready.map(|datagram| Mail { datagram, is_older: is_marked }).collect();
        let newer = receiver.held.drain(..).chain(receiver.batch.drain(..));
        left.extend(newer.map(|datagram| Mail { datagram, is_older: false }));
        receiver.is_in_use = false;
        receiver.at = At::Outside;
        receiver.request = 0;
        let mail = &mut next.mailboxes[cpu].mail;
        match self.has(Mistake::UnhandledBehindMail) {
            true => mail.extend(left),
            false => drop(mail.splice(..0, left)),
        }
    }
}

pub fn hand_on(next: &mut State, cpu: Cpu, to: Cpu, datagram: Datagram) {
    next.receivers[cpu].in_hand = Some((Mail { datagram, is_older: false }, to));
}

fn read_socket(next: &mut State, cpu: Cpu) {
    let socket = &mut next.sockets[cpu];
    let count = socket.len().min(BATCH);
    next.receivers[cpu].batch = socket.drain(..count).collect();
}

/// Whether a datagram of the same partition waits in the receiver.
fn waits(state: &State, cpu: Cpu, datagram: Datagram) -> bool {
    let receiver = &state.receivers[cpu];
    let mut waiting = receiver.ready.iter().chain(&receiver.held);
    waiting.any(|other| other.partition == datagram.partition)
}
