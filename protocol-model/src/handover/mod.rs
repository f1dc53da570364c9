//! The hand-over of an ingest between processes, as in `docs/handover-protocol.md`.

mod kernel;
mod old;
mod properties;
mod state;
mod successor;

pub use state::State;

use crate::explore::{self, Inevitable, Kind, Model, Step};
use state::{Id, Life, NAMES, Program, Stage};

type Steps = explore::Steps<State>;

/// The bounds of the search, and the mistake that is built into the protocol, if any.
#[derive(Debug, Clone, Copy)]
pub struct HandOver {
    /// How many datagrams one sender sends.
    pub datagrams: u8,
    /// How many processes may be killed.
    pub kills: u8,
    /// How often a process may be stopped. A stopped process may continue at any time.
    pub stops: u8,
    /// How often loading, replacing or installing a program may fail.
    pub failures: u8,
    /// How often another tool may attach its own program.
    pub foreign: u8,
    /// Whether a bpf_link holds the program. Otherwise netlink attached it, and the program
    /// outlives its process.
    pub link: bool,
    /// Whether the second successor takes part.
    pub second: bool,
    /// The mistake.
    pub mistake: Option<Mistake>,
}

/// A mistake in the protocol. The search must find a counterexample for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mistake {
    /// All offers share one lock instead of one byte for each offer.
    OneLockForAllOffers,
    /// The successor tries the lock once, although the kernel may still be closing the
    /// descriptors of the killed process.
    LockTriedOnce,
    /// The old process tries the lock again only after a message or the end of the stream.
    LockTriedOnEventsOnly,
    /// The successor reads the sockets before it has the lock.
    ReadsBeforeLock,
    /// The successor does not compare the generation.
    GenerationNotCompared,
    /// The old process does not compare the generation when it takes the lock again.
    GenerationNotComparedByOld,
    /// A withdrawn offer does not change the generation.
    WithdrawnWithoutGeneration,
    /// The old process serves on after a silence, without the lock.
    LockNotTakenAgain,
    /// The old process takes a silence for success, and does not look at the lock.
    SilenceIsSuccess,
    /// The old process does not put its program back after a successor that failed midway.
    NotPutBack,
    /// The old process puts its program back before it tries the lock.
    PutBackBeforeLock,
    /// A program is replaced whatever program is attached.
    ReplacedWithoutExpecting,
    /// The successor installs its programs before "ready", as version 1 did.
    InstalledBeforeReady,
    /// The old process sends "yours" before it releases the lock.
    YoursBeforeRelease,
    /// The old process does not check that the mailboxes are empty.
    MailboxesNotChecked,
    /// The old process detaches the program when it has handed over.
    DetachedAfterHandOver,
    /// A successor that fails after it has taken the lock gives up at once.
    RefusalIsFinal,
}

impl Mistake {
    /// Every mistake.
    pub const ALL: [Mistake; 17] = [
        Mistake::OneLockForAllOffers,
        Mistake::LockTriedOnce,
        Mistake::LockTriedOnEventsOnly,
        Mistake::ReadsBeforeLock,
        Mistake::GenerationNotCompared,
        Mistake::GenerationNotComparedByOld,
        Mistake::WithdrawnWithoutGeneration,
        Mistake::LockNotTakenAgain,
        Mistake::SilenceIsSuccess,
        Mistake::NotPutBack,
        Mistake::PutBackBeforeLock,
        Mistake::ReplacedWithoutExpecting,
        Mistake::InstalledBeforeReady,
        Mistake::YoursBeforeRelease,
        Mistake::MailboxesNotChecked,
        Mistake::DetachedAfterHandOver,
        Mistake::RefusalIsFinal,
    ];
}

impl Default for HandOver {
    fn default() -> HandOver {
        HandOver {
            datagrams: 2,
            kills: 1,
            stops: 1,
            failures: 1,
            foreign: 0,
            link: true,
            second: true,
            mistake: None,
        }
    }
}

impl HandOver {
    fn has(&self, mistake: Mistake) -> bool {
        self.mistake == Some(mistake)
    }

    fn environment(&self, state: &State, steps: &mut Steps) {
        if state.sockets_exist() && state.traffic.sent < self.datagrams {
            steps.add(state, "network", "a datagram arrives", Kind::Chance, |next| {
                next.traffic.sent += 1;
                let number = next.traffic.sent;
                next.traffic.socket.push(number);
            });
        }
        // The kernel lets nobody replace a program that a bpf_link holds.
        let by_link = self.link && state.sockets_exist();
        if state.used.foreign < self.foreign && !by_link {
            steps.add(state, "operator", "attach another program", Kind::Chance, |next| {
                next.used.foreign += 1;
                next.disturbed = true;
                next.kernel.program = Program::Foreign;
            });
        }
        for id in 0..state.processes.len() {
            self.life(state, id, steps);
        }
    }

    /// Kills, stops and continues a process; and the kernel closes the descriptors of a killed
    /// process one after the other.
    fn life(&self, state: &State, id: Id, steps: &mut Steps) {
        let (name, process) = (NAMES[id], &state.processes[id]);
        let takes_part = !matches!(process.stage, Stage::NotStarted | Stage::Ended | Stage::GaveUp);
        let lives = matches!(process.life, Life::Running | Life::Stopped);
        if lives && takes_part && state.used.kills < self.kills {
            steps.add(state, name, "is killed", Kind::Chance, |next| {
                next.used.kills += 1;
                next.disturbed = true;
                next.kill(id);
            });
        }
        if process.life == Life::Running && takes_part && state.used.stops < self.stops {
            steps.add(state, name, "is stopped", Kind::Chance, |next| {
                next.used.stops += 1;
                next.disturbed = true;
                next.processes[id].life = Life::Stopped;
            });
        }
        if process.life == Life::Stopped {
            steps.add(state, name, "continues", Kind::Fair, |next| {
                next.processes[id].life = Life::Running;
            });
        }
        if process.life == Life::Dying {
            if process.holds.stream {
                steps.add(state, "kernel", "close a killed process's stream", Kind::Fair, |next| {
                    next.close_streams(id);
                });
            }
            if process.holds.lock {
                steps.add(state, "kernel", "close a killed process's lock", Kind::Fair, |next| {
                    next.close_lock(id);
                });
            }
            if process.holds.sockets {
                steps.add(
                    state,
                    "kernel",
                    "close a killed process's sockets",
                    Kind::Fair,
                    |next| {
                        next.close_sockets(id);
                    },
                );
            }
        }
    }

    /// The receivers of a process that serves.
    fn receivers(&self, state: &State, id: Id, steps: &mut Steps) {
        let process = &state.processes[id];
        if process.in_hand != 0 {
            steps.add(state, NAMES[id], "handle a datagram", Kind::Fair, |next| {
                let datagram = std::mem::take(&mut next.processes[id].in_hand);
                next.deliver(datagram);
            });
        } else if process.reads && !state.traffic.socket.is_empty() {
            steps.add(state, NAMES[id], "read a datagram", Kind::Fair, |next| {
                let datagram = next.traffic.socket.remove(0);
                next.processes[id].in_hand = datagram;
            });
        }
    }
}

impl Model for HandOver {
    type State = State;

    fn initial(&self) -> State {
        State::new(self.second, self.has(Mistake::OneLockForAllOffers), self.link)
    }

    fn steps(&self, state: &State) -> Vec<(Step, State)> {
        let mut steps = Steps::default();
        self.environment(state, &mut steps);
        for (id, process) in state.processes.iter().enumerate() {
            if process.life == Life::Running {
                self.receivers(state, id, &mut steps);
                self.old_process(state, id, &mut steps);
                self.successor(state, id, &mut steps);
            }
        }
        steps.0
    }

    fn fault(&self, state: &State) -> Option<&'static str> {
        properties::fault(state)
    }

    fn inevitable(&self) -> Vec<Inevitable<State>> {
        properties::inevitable()
    }
}
