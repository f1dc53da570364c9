//! The steps of a successor: `Ingest::take_over`.

use super::state::{Id, Message, NAMES, Program, Stage, State, Stream};
use super::{HandOver, Mistake, Steps};
use crate::explore::Kind;

impl HandOver {
    pub(super) fn successor(&self, state: &State, id: Id, steps: &mut Steps) {
        let (name, process) = (NAMES[id], &state.processes[id]);
        match process.stage {
            Stage::NotStarted => self.connect(state, id, steps),
            Stage::TermsSent => self.terms_sent(state, id, steps),
            Stage::Loading => self.loading(state, id, steps),
            Stage::Ready => self.ready(state, id, steps),
            Stage::TryingLock => self.trying_lock(state, id, steps),
            Stage::Comparing => {
                steps.add(state, name, "compare the generation", Kind::Fair, |next| {
                    self.compare(next, id);
                });
            }
            Stage::Replacing => self.replacing(state, id, steps),
            Stage::Installing => self.installing(state, id, steps),
            Stage::Confirming => steps.add(state, name, "send \"mine\"", Kind::Fair, |next| {
                next.send_to_old(stream_of(id), Message::Mine);
                next.close_streams(id);
                next.processes[id].failed = false;
                next.processes[id].stage = Stage::Serving;
            }),
            Stage::Undoing => steps.add(state, name, "undo", Kind::Fair, |next| {
                self.undo(next, id);
            }),
            Stage::Releasing => steps.add(state, name, "release the lock", Kind::Fair, |next| {
                next.unlock(id, next.processes[id].granted);
                next.processes[id].stage = Stage::Refusing;
            }),
            Stage::Refusing => steps.add(state, name, "refuse", Kind::Fair, |next| {
                next.send_to_old(stream_of(id), Message::Refused);
                match self.has(Mistake::RefusalIsFinal) {
                    true => next.give_up(id),
                    false => next.processes[id].stage = Stage::AwaitingEnd,
                }
            }),
            Stage::AwaitingEnd => self.awaiting_end(state, id, steps),
            _ => {}
        }
    }

    /// Any process that owns the ingest may be asked, even one that hands over already.
    fn connect(&self, state: &State, id: Id, steps: &mut Steps) {
        for old in 0..id {
            let process = &state.processes[old];
            if process.is_old() && process.lives() {
                steps.add(state, NAMES[id], "send the terms", Kind::Chance, |next| {
                    next.streams[id - 1] = Stream {
                        old,
                        to_old: vec![Message::Terms],
                        to_new: Vec::new(),
                        old_end_open: true,
                        new_end_open: true,
                    };
                    next.processes[old].holds.stream = true;
                    next.processes[id].holds.stream = true;
                    next.processes[id].stage = Stage::TermsSent;
                });
            }
        }
    }

    fn terms_sent(&self, state: &State, id: Id, steps: &mut Steps) {
        let (name, end) = (NAMES[id], &state.streams[id - 1]);
        match end.to_new.first() {
            Some(Message::Inventory(generation)) => {
                let generation = *generation;
                steps.add(state, name, "receive inventory and descriptors", Kind::Fair, |next| {
                    next.streams[id - 1].to_new.remove(0);
                    let runs = next.processes[end.old].runs;
                    let process = &mut next.processes[id];
                    process.granted = generation;
                    process.runs = runs;
                    process.holds.lock = true;
                    process.holds.sockets = true;
                    process.stage = Stage::Loading;
                });
            }
            Some(_) => self.add_give_up(state, id, "read the refusal", Kind::Fair, steps),
            None if !end.old_end_open => {
                self.add_give_up(state, id, "see the end of the stream", Kind::Fair, steps);
            }
            None => {
                self.add_give_up(state, id, "the wait for the inventory ends", Kind::Slow, steps);
            }
        }
    }

    fn loading(&self, state: &State, id: Id, steps: &mut Steps) {
        steps.add(state, NAMES[id], "send \"ready\"", Kind::Fair, |next| {
            if self.has(Mistake::InstalledBeforeReady) {
                next.replace(id, Some(next.processes[id].runs), Program::Of(id));
                next.install_selector(id, id);
                next.processes[id].runs = Program::Of(id);
            }
            next.send_to_old(stream_of(id), Message::Ready);
            next.processes[id].stage = Stage::Ready;
        });
        self.add_failure(state, id, "no program can be loaded", steps, |next| {
            next.send_to_old(stream_of(id), Message::Refused);
            next.give_up(id);
        });
    }

    fn ready(&self, state: &State, id: Id, steps: &mut Steps) {
        let (name, end) = (NAMES[id], &state.streams[id - 1]);
        let reads = self.has(Mistake::ReadsBeforeLock);
        let try_lock = |next: &mut State| {
            next.processes[id].stage = Stage::TryingLock;
            next.processes[id].reads = reads;
        };
        match end.to_new.first() {
            Some(Message::Yours) => {
                steps.add(state, name, "read \"yours\"", Kind::Fair, |next| {
                    next.streams[id - 1].to_new.remove(0);
                    try_lock(next);
                });
            }
            Some(_) => self.add_give_up(state, id, "read the refusal", Kind::Fair, steps),
            None if !end.old_end_open => {
                steps.add(state, name, "see the end of the stream", Kind::Fair, try_lock);
            }
            None => steps.add(state, name, "the wait for \"yours\" ends", Kind::Slow, |next| {
                next.disturbed = true;
                try_lock(next);
            }),
        }
    }

    /// The lock is tried again and again until a deadline. By then the kernel has closed the
    /// descriptors of a killed process.
    fn trying_lock(&self, state: &State, id: Id, steps: &mut Steps) {
        let (name, granted) = (NAMES[id], state.processes[id].granted);
        if state.can_lock(id, granted) {
            steps.add(state, name, "take the lock", Kind::Fair, |next| {
                next.try_lock(id, granted);
                next.processes[id].stage = Stage::Comparing;
            });
        } else if !state.someone_is_dying() || self.has(Mistake::LockTriedOnce) {
            let kind = match self.has(Mistake::LockTriedOnce) {
                true => Kind::Fair,
                false => Kind::Patience,
            };
            steps.add(state, name, "give up: the lock is held", kind, |next| {
                if !next.someone_is_dying() && next.disturbed {
                    next.processes[id].failed = true;
                }
                next.send_to_old(stream_of(id), Message::Refused);
                next.give_up(id);
            });
        }
    }

    fn compare(&self, next: &mut State, id: Id) {
        let process = &next.processes[id];
        let is_right =
            process.granted == next.kernel.generation || self.has(Mistake::GenerationNotCompared);
        if !is_right {
            next.unlock(id, process.granted);
            next.send_to_old(stream_of(id), Message::Refused);
            next.give_up(id);
        } else if process.failed {
            // The old process is gone. This process serves with the program that is attached.
            next.processes[id].stage = Stage::Confirming;
        } else {
            next.processes[id].stage = Stage::Replacing;
        }
    }

    fn replacing(&self, state: &State, id: Id, steps: &mut Steps) {
        let expected = state.processes[id].runs;
        let any = self.has(Mistake::ReplacedWithoutExpecting);
        if state.kernel.program == expected || any {
            steps.add(state, NAMES[id], "replace the program", Kind::Fair, |next| {
                next.replace(id, (!any).then_some(expected), Program::Of(id));
                next.processes[id].stage = Stage::Installing;
            });
        } else {
            steps.add(state, NAMES[id], "another program is attached", Kind::Fair, |next| {
                next.disturbed = true;
                next.processes[id].failed = true;
                next.processes[id].stage = Stage::Undoing;
            });
        }
        self.add_failure(state, id, "the program cannot be replaced", steps, |next| {
            next.processes[id].failed = true;
            next.processes[id].stage = Stage::Undoing;
        });
        self.add_failure(state, id, "keep the old program", steps, |next| {
            next.processes[id].stage = Stage::Installing;
        });
    }

    fn installing(&self, state: &State, id: Id, steps: &mut Steps) {
        steps.add(state, NAMES[id], "install selector and filters", Kind::Fair, |next| {
            next.install_selector(id, id);
            if next.kernel.program == Program::Of(id) {
                next.processes[id].runs = Program::Of(id);
            }
            next.processes[id].stage = Stage::Confirming;
        });
        self.add_failure(state, id, "selector or filters cannot be installed", steps, |next| {
            next.processes[id].failed = true;
            next.processes[id].stage = Stage::Undoing;
        });
    }

    fn undo(&self, next: &mut State, id: Id) {
        let runs = next.processes[id].runs;
        if next.kernel.program == Program::Of(id) && runs != Program::Of(id) {
            next.replace(id, Some(Program::Of(id)), runs);
        }
        next.processes[id].stage = Stage::Releasing;
    }

    /// The old process closes the stream after it has decided. If it decided to serve on, it has
    /// changed the generation before.
    fn awaiting_end(&self, state: &State, id: Id, steps: &mut Steps) {
        let end = &state.streams[id - 1];
        if !end.old_end_open {
            steps.add(state, NAMES[id], "see the end of the stream", Kind::Fair, |next| {
                next.streams[id - 1].to_new.clear();
                next.processes[id].stage = Stage::TryingLock;
            });
        } else {
            let name = "the wait for the end ends";
            self.add_give_up(state, id, name, Kind::Slow, steps);
        }
    }

    fn add_give_up(
        &self,
        state: &State,
        id: Id,
        name: &'static str,
        kind: Kind,
        steps: &mut Steps,
    ) {
        steps.add(state, NAMES[id], name, kind, |next| {
            next.disturbed |= kind != Kind::Fair;
            next.give_up(id);
        });
    }

    fn add_failure(
        &self,
        state: &State,
        id: Id,
        name: &'static str,
        steps: &mut Steps,
        change: impl FnOnce(&mut State),
    ) {
        if state.used.failures < self.failures {
            steps.add(state, NAMES[id], name, Kind::Chance, |next| {
                next.used.failures += 1;
                next.disturbed = true;
                change(next);
            });
        }
    }
}

fn stream_of(id: Id) -> u8 {
    id as u8 - 1
}
