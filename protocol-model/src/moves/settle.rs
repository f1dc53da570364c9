//! `Receiver::settle`: a receiver takes its mail and passes on what it does not own any more.

use super::receiver::hand_on;
use super::state::{At, Cpu, Datagram, MOVING, Mail, RECEIVERS, Role, State, Then};
use super::{Mistake, Moves, Steps};
use crate::explore::Kind;

impl Moves {
    /// `Receiver::settle`: takes the mail, releases held datagrams, passes datagrams on.
    pub(super) fn settle(&self, state: &State, cpu: Cpu, steps: &mut Steps) {
        let (name, receiver) = (RECEIVERS[cpu], &state.receivers[cpu]);
        match receiver.at {
            At::RolesToRead(then) => {
                steps.add(state, name, "read the role", Kind::Fair, |next| {
                    let holds = !next.receivers[cpu].held.is_empty();
                    next.receivers[cpu].role = holds.then(|| next.role(cpu));
                    next.receivers[cpu].at = At::MailToTake(then);
                });
            }
            At::MailToTake(then) => steps.add(state, name, "take the mail", Kind::Fair, |next| {
                let mut mail = std::mem::take(&mut next.mailboxes[cpu].mail);
                if !self.has(Mistake::MailNotOrderedByMark) {
                    mail.sort_by_key(|mail| !mail.is_older);
                }
                next.receivers[cpu].mail = mail;
                next.receivers[cpu].at = At::OlderMail(then);
            }),
            At::OlderMail(then) => {
                if receiver.mail.first().is_some_and(|mail| mail.is_older) {
                    steps.add(state, name, "accept older mail", Kind::Fair, |next| {
                        let mail = next.receivers[cpu].mail.remove(0);
                        match self.role_of(next, cpu, mail.datagram) {
                            Role::Other(owner) => hand_on(next, cpu, owner, mail.datagram),
                            _ => next.receivers[cpu].ready.push(mail.datagram),
                        }
                    });
                    return;
                }
                steps.add(state, name, "release held datagrams", Kind::Fair, |next| {
                    if self.has(Mistake::RoleReadAfterMail) {
                        next.receivers[cpu].role = Some(next.role(cpu));
                    }
                    let receiver = &mut next.receivers[cpu];
                    if receiver.role.take().is_some_and(|role| role != Role::NextOwner) {
                        receiver.ready.append(&mut receiver.held);
                    }
                    receiver.at = At::NewerMail(then);
                });
            }
            At::NewerMail(_) if !receiver.mail.is_empty() => {
                steps.add(state, name, "accept newer mail", Kind::Fair, |next| {
                    let mail = next.receivers[cpu].mail.remove(0);
                    if mail.is_older {
                        // Only without the order by mark.
                        next.receivers[cpu].ready.push(mail.datagram);
                    } else {
                        self.accept(next, cpu, mail.datagram);
                    }
                });
            }
            At::NewerMail(then) => {
                steps.add(state, name, "look for datagrams to pass on", Kind::Fair, |next| {
                    let role = next.role(cpu);
                    next.receivers[cpu].at = At::PassingOn(role, then);
                });
            }
            At::PassingOn(role, then) => self.pass_on(state, cpu, role, then, steps),
            _ => {}
        }
    }

    fn pass_on(&self, state: &State, cpu: Cpu, role: Role, then: Then, steps: &mut Steps) {
        let (name, receiver) = (RECEIVERS[cpu], &state.receivers[cpu]);
        let moving = |datagram: &Datagram| datagram.partition == MOVING;
        let to = match role {
            Role::FormerOwner(_) if self.has(Mistake::ReadyQueueNotPassedOn) => None,
            Role::FormerOwner(to) | Role::Other(to) => Some(to),
            Role::Owner | Role::NextOwner => None,
        };
        if let (Some(to), Some(at)) = (to, receiver.ready.iter().position(moving)) {
            steps.add(state, name, "pass a ready datagram on", Kind::Fair, |next| {
                let datagram = next.receivers[cpu].ready.remove(at);
                let is_older =
                    matches!(role, Role::FormerOwner(_)) && !self.has(Mistake::OlderNotMarked);
                next.receivers[cpu].in_hand = Some((Mail { datagram, is_older }, to));
            });
            return;
        }
        steps.add(state, name, "end of `settle`", Kind::Fair, |next| {
            let is_met = next.receivers[cpu].request <= next.mailboxes[cpu].met
                && !self.has(Mistake::RequestReadLate);
            next.receivers[cpu].at = match then {
                Then::Drain if is_met => At::HandlingReady,
                Then::Drain => At::Draining,
                Then::Report => At::Reporting,
                Then::Accept => At::ToAccept,
            };
        });
    }
}
