//! The steps of a process that owns the ingest: `Ingest::offer` and `Ingest::hand_over`.

use super::state::{Id, Message, NAMES, Program, Stage, State};
use super::{HandOver, Mistake, Steps};
use crate::explore::Kind;

impl HandOver {
    pub(super) fn old_process(&self, state: &State, id: Id, steps: &mut Steps) {
        let (name, process) = (NAMES[id], &state.processes[id]);
        if !process.is_old() {
            return;
        }
        self.answer_terms(state, id, steps);
        match process.stage {
            Stage::Serving if !process.reads => {
                steps.add(state, name, "take the receivers", Kind::Fair, |next| {
                    next.processes[id].reads = true;
                    let mail = std::mem::take(&mut next.processes[id].mail);
                    next.processes[id].in_hand = mail;
                });
            }
            Stage::Offering(stream) => self.offering(state, id, stream, steps),
            Stage::Offered(stream) => {
                self.drop_offer(state, id, stream, steps);
                steps.add(state, name, "stop the receivers", Kind::Fair, |next| {
                    let process = &mut next.processes[id];
                    process.reads = false;
                    process.mail = std::mem::take(&mut process.in_hand);
                    process.stage = Stage::ReceiversStopped(stream);
                });
            }
            Stage::ReceiversStopped(stream) => self.receivers_stopped(state, id, stream, steps),
            Stage::Released(stream) => self.released(state, id, stream, steps),
            Stage::AwaitingMine(stream) => self.awaiting_mine(state, id, stream, steps),
            Stage::TakingLockAgain(stream) => {
                steps.add(state, name, "try the lock again", Kind::Fair, |next| {
                    if !self.take_lock_again(next, id, stream) {
                        next.processes[id].stage = Stage::AwaitingOutcome(stream);
                    }
                });
            }
            Stage::AwaitingOutcome(stream) => self.awaiting_outcome(state, id, stream, steps),
            Stage::PuttingBack(stream) => {
                steps.add(state, name, "put the own programs back", Kind::Fair, |next| {
                    if !self.has(Mistake::NotPutBack) {
                        self.put_back(next, id, stream);
                    }
                    next.processes[id].stage = Stage::Closing(stream);
                });
            }
            Stage::Withdrawing(stream) => {
                steps.add(state, name, "change the generation", Kind::Fair, |next| {
                    if !self.has(Mistake::WithdrawnWithoutGeneration) {
                        next.change_generation(id);
                    }
                    next.processes[id].stage = Stage::Closing(stream);
                });
            }
            Stage::Closing(stream) => {
                steps.add(state, name, "refuse and close the stream", Kind::Fair, |next| {
                    next.send_to_new(stream, Message::Refused);
                    next.close_old_end(id, stream);
                    next.processes[id].stage = Stage::Serving;
                });
            }
            _ => {}
        }
    }

    /// `offer` begins, or refuses because another offer is under way.
    fn answer_terms(&self, state: &State, id: Id, steps: &mut Steps) {
        for (at, stream) in state.streams.iter().enumerate() {
            let is_asked = stream.old == id && stream.to_old.first() == Some(&Message::Terms);
            if !is_asked {
                continue;
            }
            let (process, at) = (&state.processes[id], at as u8);
            if process.stage == Stage::Serving && process.reads && state.has_room_for_offers() {
                steps.add(state, NAMES[id], "offer: send the inventory", Kind::Fair, |next| {
                    next.streams[usize::from(at)].to_old.remove(0);
                    next.change_generation(id);
                    next.processes[id].offered = next.kernel.generation;
                    next.send_to_new(at, Message::Inventory(next.kernel.generation));
                    next.processes[id].stage = Stage::Offering(at);
                });
            } else {
                steps.add(state, NAMES[id], "refuse: an offer is under way", Kind::Fair, |next| {
                    next.disturbed = true;
                    next.send_to_new(at, Message::Refused);
                    next.close_old_end(id, at);
                });
            }
        }
    }

    fn offering(&self, state: &State, id: Id, stream: u8, steps: &mut Steps) {
        let (name, end) = (NAMES[id], &state.streams[usize::from(stream)]);
        match end.to_old.first() {
            Some(Message::Ready) => {
                steps.add(state, name, "offer returns", Kind::Fair, |next| {
                    next.streams[usize::from(stream)].to_old.remove(0);
                    next.processes[id].stage = Stage::Offered(stream);
                });
            }
            Some(_) => steps.add(state, name, "offer fails", Kind::Fair, |next| {
                next.processes[id].stage = Stage::Withdrawing(stream);
            }),
            None if !end.new_end_open => {
                steps.add(state, name, "offer fails", Kind::Fair, |next| {
                    next.processes[id].stage = Stage::Withdrawing(stream);
                });
            }
            None => steps.add(state, name, "the wait for \"ready\" ends", Kind::Slow, |next| {
                next.disturbed = true;
                next.processes[id].stage = Stage::Withdrawing(stream);
            }),
        }
    }

    fn drop_offer(&self, state: &State, id: Id, stream: u8, steps: &mut Steps) {
        steps.add(state, NAMES[id], "drop the offer", Kind::Chance, |next| {
            next.disturbed = true;
            next.processes[id].stage = Stage::Withdrawing(stream);
        });
    }

    fn receivers_stopped(&self, state: &State, id: Id, stream: u8, steps: &mut Steps) {
        let (name, process) = (NAMES[id], &state.processes[id]);
        self.drop_offer(state, id, stream, steps);
        let mailbox_is_right = process.mail == 0 || self.has(Mistake::MailboxesNotChecked);
        if process.mail != 0 {
            steps.add(state, name, "drain a receiver", Kind::Fair, |next| {
                let datagram = std::mem::take(&mut next.processes[id].mail);
                next.deliver(datagram);
            });
        }
        if mailbox_is_right {
            let yours_first = self.has(Mistake::YoursBeforeRelease);
            steps.add(state, name, "hand_over: release the lock", Kind::Fair, |next| {
                if yours_first {
                    next.send_to_new(stream, Message::Yours);
                } else {
                    next.unlock(id, next.processes[id].offered);
                }
                next.processes[id].stage = Stage::Released(stream);
            });
        } else {
            steps.add(state, name, "hand_over: datagrams are left", Kind::Chance, |next| {
                next.disturbed = true;
                next.processes[id].stage = Stage::Withdrawing(stream);
            });
        }
    }

    fn released(&self, state: &State, id: Id, stream: u8, steps: &mut Steps) {
        steps.add(state, NAMES[id], "send \"yours\"", Kind::Fair, |next| {
            let is_sent = if self.has(Mistake::YoursBeforeRelease) {
                next.unlock(id, next.processes[id].offered);
                true
            } else {
                next.send_to_new(stream, Message::Yours)
            };
            next.processes[id].stage = match is_sent {
                true => Stage::AwaitingMine(stream),
                false => Stage::TakingLockAgain(stream),
            };
        });
    }

    fn awaiting_mine(&self, state: &State, id: Id, stream: u8, steps: &mut Steps) {
        let (name, end) = (NAMES[id], &state.streams[usize::from(stream)]);
        match end.to_old.first() {
            Some(Message::Mine) => self.release(state, id, steps),
            Some(_) => steps.add(state, name, "read the refusal", Kind::Fair, |next| {
                next.streams[usize::from(stream)].to_old.remove(0);
                next.processes[id].stage = Stage::TakingLockAgain(stream);
            }),
            None if !end.new_end_open => {
                steps.add(state, name, "see the end of the stream", Kind::Fair, |next| {
                    next.processes[id].stage = Stage::TakingLockAgain(stream);
                });
            }
            None => steps.add(state, name, "the patience ends", Kind::Patience, |next| {
                next.disturbed = true;
                next.processes[id].stage = match self.mistake {
                    Some(Mistake::LockNotTakenAgain) => Stage::Closing(stream),
                    Some(Mistake::SilenceIsSuccess) => Stage::Ended,
                    _ => Stage::TakingLockAgain(stream),
                };
                if self.has(Mistake::PutBackBeforeLock) {
                    self.put_back(next, id, stream);
                }
                if next.processes[id].stage == Stage::Ended {
                    if next.can_lock(id, next.processes[id].offered) {
                        next.fault.get_or_insert("the old process ends after a successor began");
                    }
                    self.end(next, id);
                }
            }),
        }
    }

    fn awaiting_outcome(&self, state: &State, id: Id, stream: u8, steps: &mut Steps) {
        let (name, end) = (NAMES[id], &state.streams[usize::from(stream)]);
        let offered = state.processes[id].offered;
        if end.to_old.first() == Some(&Message::Mine) {
            return self.release(state, id, steps);
        }
        if !end.to_old.is_empty() {
            steps.add(state, name, "read the refusal", Kind::Fair, |next| {
                next.streams[usize::from(stream)].to_old.remove(0);
                next.processes[id].stage = Stage::TakingLockAgain(stream);
            });
        } else if state.can_lock(id, offered) && !self.has(Mistake::LockTriedOnEventsOnly) {
            steps.add(state, name, "try the lock again", Kind::Fair, |next| {
                self.take_lock_again(next, id, stream);
            });
        }
        steps.add(state, name, "the wait for \"mine\" ends", Kind::Slow, |next| {
            next.disturbed = true;
            if !self.take_lock_again(next, id, stream) {
                self.end(next, id);
            }
        });
    }

    /// Takes the lock again, and withdraws the offer by another generation. If the generation has
    /// changed, a successor has taken over and then made an offer itself.
    fn take_lock_again(&self, next: &mut State, id: Id, stream: u8) -> bool {
        let offered = next.processes[id].offered;
        if !next.try_lock(id, offered) {
            return false;
        }
        if next.kernel.generation == offered || self.has(Mistake::GenerationNotComparedByOld) {
            next.change_generation(id);
            next.processes[id].stage = Stage::PuttingBack(stream);
        } else {
            self.end(next, id);
        }
        true
    }

    /// Replaces a program that the successor of this offer may have left.
    fn put_back(&self, next: &mut State, id: Id, stream: u8) {
        let own = next.processes[id].runs;
        let successors = Program::Of(usize::from(stream) + 1);
        if next.kernel.program != own {
            let expected = (!self.has(Mistake::ReplacedWithoutExpecting)).then_some(successors);
            next.replace(id, expected, own);
        }
        if next.kernel.selector == usize::from(stream) + 1 {
            next.install_selector(id, id);
        }
    }

    fn release(&self, state: &State, id: Id, steps: &mut Steps) {
        steps.add(state, NAMES[id], "release without detaching", Kind::Fair, |next| {
            self.end(next, id);
        });
    }

    fn end(&self, next: &mut State, id: Id) {
        if next.processes[id].mail != 0 {
            next.fault.get_or_insert("datagrams are neither lost nor overtaken");
        }
        if self.has(Mistake::DetachedAfterHandOver) {
            next.kernel.program = Program::None;
        }
        next.processes[id].stage = Stage::Ended;
        next.close_streams(id);
        next.close_lock(id);
        next.close_sockets(id);
    }
}

impl State {
    /// Locks the byte of the next generation, then writes it.
    pub(super) fn change_generation(&mut self, id: Id) {
        let next = self.kernel.generation + 1;
        self.try_lock(id, next);
        self.kernel.generation = next;
    }
}
