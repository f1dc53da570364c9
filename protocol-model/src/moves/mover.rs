//! The steps of `Ingest::move_partition`.

use super::state::{Cpu, Entry, MoveStep, MoverAt, Ownership, Queued, State};
use super::{Mistake, Moves, Steps, Way};
use crate::explore::Kind;

const MOVER: &str = "mover";

impl Moves {
    pub(super) fn mover(&self, state: &State, steps: &mut Steps) {
        let mover = state.mover;
        if mover.at == MoverAt::Idle {
            return self.idle(state, steps);
        }
        let (from, to) = match state.ownership {
            Ownership::Owned(owner) => (owner, mover.target),
            Ownership::Moving { from, to, .. } => (from, to),
        };
        let waits = matches!(
            mover.at,
            MoverAt::AwaitingMarker | MoverAt::AwaitingStart | MoverAt::AwaitingSocket
        );
        if waits && mover.failures < self.failures {
            steps.add(state, MOVER, "the wait ends with an error", Kind::Chance, |next| {
                next.mover.failures += 1;
                next.mover.at = MoverAt::Idle;
            });
        }
        match mover.at {
            MoverAt::Idle => {}
            MoverAt::Called => self.called(state, from, to, steps),
            MoverAt::Announced => self.announced(state, from, to, steps),
            MoverAt::QueueWritten => {
                steps.add(state, MOVER, "wait for running programs", Kind::Fair, |next| {
                    next.await_programs();
                    next.mover.at = MoverAt::AwaitingPrograms;
                });
            }
            MoverAt::AwaitingPrograms => {
                if state.programs_have_ended() {
                    steps.add(state, MOVER, "send the marker", Kind::Fair, |next| {
                        next.queues[from].push(Queued::Marker);
                        next.mover.at = MoverAt::AwaitingMarker;
                    });
                }
            }
            MoverAt::AwaitingMarker => {
                if !state.queues[from].contains(&Queued::Marker) {
                    steps.add(state, MOVER, "the old queue is drained", Kind::Fair, |next| {
                        next.mover.at = MoverAt::QueueDrained;
                    });
                }
            }
            MoverAt::AwaitingStart => {
                if state.mailboxes[self.start].met >= mover.start_request {
                    steps.add(state, MOVER, "the start's socket is drained", Kind::Fair, |next| {
                        next.mover.at = MoverAt::QueueDrained;
                    });
                }
            }
            MoverAt::QueueDrained => {
                steps.add(state, MOVER, "redirect the socket", Kind::Fair, |next| {
                    next.table = Entry { queue: to, socket: to };
                    next.mover.at = MoverAt::SocketWritten;
                });
            }
            MoverAt::SocketWritten => {
                steps.add(state, MOVER, "SocketMoved", Kind::Fair, |next| {
                    next.ownership = Ownership::Moving { from, to, step: MoveStep::SocketMoved };
                    next.await_programs();
                    next.mover.at = match self.has(Mistake::DeliveriesNotAwaited) {
                        true => {
                            self.request_drain(next, from);
                            MoverAt::AwaitingSocket
                        }
                        false => MoverAt::AwaitingDeliveries,
                    };
                });
            }
            MoverAt::AwaitingDeliveries => {
                if state.programs_have_ended() {
                    steps.add(state, MOVER, "request a drain of the socket", Kind::Fair, |next| {
                        self.request_drain(next, from);
                        next.mover.at = match self.has(Mistake::SocketNotDrained) {
                            true => MoverAt::Drained,
                            false => MoverAt::AwaitingSocket,
                        };
                    });
                }
            }
            MoverAt::AwaitingSocket => {
                if state.mailboxes[from].met >= mover.request {
                    steps.add(state, MOVER, "the old socket is drained", Kind::Fair, |next| {
                        next.mover.at = MoverAt::Drained;
                    });
                }
            }
            MoverAt::Drained => steps.add(state, MOVER, "complete", Kind::Fair, |next| {
                next.ownership = Ownership::Owned(to);
                next.mover.request = 0;
                next.mover.start_request = 0;
                if !self.has(Mistake::NewOwnerNotWoken) {
                    next.mailboxes[to].is_woken = true;
                }
                let ends = to == next.mover.target;
                next.mover.at = if ends { MoverAt::Idle } else { MoverAt::Called };
            }),
        }
    }

    /// The application moves the partition, or repeats a call that failed, or moves the partition
    /// elsewhere after a call that failed.
    fn idle(&self, state: &State, steps: &mut Steps) {
        if let Ownership::Moving { to, .. } = state.ownership {
            steps.add(state, MOVER, "repeat the call", Kind::Fair, |next| {
                next.mover.target = to;
                next.mover.at = MoverAt::Called;
            });
        }
        if state.mover.moves == self.moves {
            return;
        }
        for target in 0..state.receivers.len() {
            let name = ["move to CPU 0", "move to CPU 1", "move to CPU 2"][target];
            let is_there = match state.ownership {
                Ownership::Owned(owner) => owner == target,
                Ownership::Moving { to, .. } => to == target,
            };
            if is_there {
                continue;
            }
            steps.add(state, MOVER, name, Kind::Chance, |next| {
                next.mover.moves += 1;
                next.mover.target = target;
                next.mover.at = MoverAt::Called;
                if self.has(Mistake::PendingMoveNotCompleted)
                    && let Ownership::Moving { from, step, .. } = next.ownership
                {
                    next.ownership = match target == from {
                        true => Ownership::Owned(from),
                        false => Ownership::Moving { from, to: target, step },
                    };
                }
            });
        }
    }

    /// The start of a call: a pending move continues after the step that it has reached.
    fn called(&self, state: &State, from: Cpu, to: Cpu, steps: &mut Steps) {
        match state.ownership {
            Ownership::Owned(owner) if owner == to => {
                steps.add(state, MOVER, "nothing to do", Kind::Fair, |next| {
                    next.mover.at = MoverAt::Idle;
                });
            }
            Ownership::Owned(_) => {
                steps.add(state, MOVER, "Announced", Kind::Fair, |next| {
                    if self.has(Mistake::AnnouncedAfterTable) {
                        next.table = Entry { queue: to, ..next.table };
                        if self.way != Way::Steered {
                            next.table.socket = to;
                        }
                    } else {
                        next.ownership = Ownership::Moving { from, to, step: MoveStep::Announced };
                    }
                    next.mover.at = MoverAt::Announced;
                });
            }
            Ownership::Moving { step: MoveStep::SocketMoved, .. } => {
                steps.add(state, MOVER, "continue after SocketMoved", Kind::Fair, |next| {
                    next.await_programs();
                    next.mover.at = MoverAt::AwaitingDeliveries;
                });
            }
            Ownership::Moving { .. } => {
                steps.add(state, MOVER, "continue after Announced", Kind::Fair, |next| {
                    next.mover.at = MoverAt::Announced;
                });
            }
        }
    }

    fn announced(&self, state: &State, from: Cpu, to: Cpu, steps: &mut Steps) {
        match self.way {
            Way::Steered => steps.add(state, MOVER, "QueueMoved", Kind::Fair, |next| {
                next.table = Entry { queue: to, socket: from };
                next.ownership = Ownership::Moving { from, to, step: MoveStep::QueueMoved };
                next.mover.at = match self.has(Mistake::QueueNotDrained) {
                    true => MoverAt::QueueDrained,
                    false => MoverAt::QueueWritten,
                };
            }),
            Way::ClassicBpf if self.start != from && !self.has(Mistake::StartNotDrained) => {
                steps.add(state, MOVER, "drain the start's socket", Kind::Fair, |next| {
                    if next.mover.start_request == 0 {
                        let mailbox = &mut next.mailboxes[self.start];
                        mailbox.requested += 1;
                        mailbox.is_woken = true;
                        next.mover.start_request = mailbox.requested;
                    }
                    next.mover.at = MoverAt::AwaitingStart;
                });
            }
            Way::Selected | Way::ClassicBpf => {
                steps.add(state, MOVER, "no queue to redirect", Kind::Fair, |next| {
                    next.mover.at = MoverAt::QueueDrained;
                });
            }
        }
    }

    /// A repeated call waits for the request that the first one made.
    fn request_drain(&self, next: &mut State, from: Cpu) {
        if next.mover.request == 0 {
            let mailbox = &mut next.mailboxes[from];
            mailbox.requested += 1;
            mailbox.is_woken = true;
            next.mover.request = mailbox.requested;
        }
    }
}
