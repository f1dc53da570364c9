//! What must hold in every state, and what must happen sooner or later.

use super::state::{Life, Process, Program, Stage, State};
use crate::explore::{Inevitable, Kind, Step};

pub fn fault(state: &State) -> Option<&'static str> {
    if state.fault.is_some() {
        return state.fault;
    }
    let readers = state.processes.iter().enumerate().filter(|(_, process)| process.reads);
    if readers.clone().count() > 1 {
        return Some("at most one process reads the sockets");
    }
    for (id, process) in readers {
        if !state.serves_by_lock(id) {
            return Some("a process that reads the sockets holds the lock");
        }
        let attached = state.kernel.program;
        if attached != process.runs && attached != Program::Foreign {
            return Some("the attached program is the one of the process that serves");
        }
        if state.kernel.selector != id && process.stage == Stage::Serving && !kept(state, id) {
            return Some("selector and filters are those of the process that serves");
        }
    }
    None
}

/// Whether the process serves on with the programs of the former process, because it could not
/// replace them and the former process is gone.
fn kept(state: &State, id: usize) -> bool {
    state.processes[id].runs != Program::Of(id)
}

pub fn inevitable() -> Vec<Inevitable<State>> {
    vec![
        Inevitable {
            name: "without further failures one process serves, and no long wait is needed",
            relied_on: |step| matches!(step.kind, Kind::Fair | Kind::Patience),
            goal: |state| serves(state) || is_killed(state),
        },
        Inevitable {
            name: "the old process decides by itself, whatever its successor does",
            relied_on: |step| by(step, "old") && step.kind != Kind::Chance,
            goal: |state| has_decided(&state.processes[0]),
        },
        Inevitable {
            name: "successor1 decides by itself when it hands over, whatever its successor does",
            relied_on: |step| by(step, "successor1") && step.kind != Kind::Chance,
            goal: |state| !state.processes[1].is_old() || has_decided(&state.processes[1]),
        },
        Inevitable {
            name: "the old process waits no longer than its patience for a successor without lock",
            relied_on: |step| by(step, "old") && matches!(step.kind, Kind::Fair | Kind::Patience),
            goal: |state| {
                let old = &state.processes[0];
                has_decided(old)
                    // The application's part of the wait.
                    || matches!(old.stage, Stage::Offering(_) | Stage::Offered(_))
                    || !state.can_lock(0, old.offered)
            },
        },
    ]
}

fn by(step: &Step, actor: &str) -> bool {
    step.actor == actor || step.actor == "kernel"
}

fn serves(state: &State) -> bool {
    state.processes.iter().any(|process| {
        // A stopped process serves again when it continues.
        process.life == Life::Running && process.is_old() && process.reads
    })
}

/// Whether a process was killed and no other has a claim to serve.
fn is_killed(state: &State) -> bool {
    let has_claim =
        |process: &Process| process.lives() && (process.is_old() || process.is_successor());
    state.used.kills > 0 && !state.processes.iter().any(has_claim)
}

fn has_decided(process: &Process) -> bool {
    process.life != Life::Running
        || !process.is_old()
        || (process.reads && process.stage == Stage::Serving)
        || (process.reads && matches!(process.stage, Stage::Offering(_) | Stage::Offered(_)))
}
