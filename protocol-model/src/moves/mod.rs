//! Moves of a partition between CPUs, as in `docs/order-and-guarantees.md`.

mod kernel;
mod mover;
mod receiver;
mod settle;
mod state;

pub use state::State;

use crate::explore::{self, Inevitable, Kind, Model, Step};
use state::{Cpu, Datagram, Ownership, STAYING};

type Steps = explore::Steps<State>;

/// The bounds of the search, and the mistake that is built into the protocol, if any.
#[derive(Debug, Clone, Copy)]
pub struct Moves {
    /// How datagrams reach the sockets.
    pub way: Way,
    /// The number of CPUs.
    pub cpus: usize,
    /// The CPU where the moving partition starts.
    pub start: usize,
    /// The owner of the partition that does not move.
    pub other_owner: usize,
    /// How many datagrams arrive for the moving partition, and for the other one.
    pub datagrams: [u8; 2],
    /// How often the application moves the partition.
    pub moves: u8,
    /// How often a wait of the mover ends with an error.
    pub failures: u8,
    /// How often a receiver is dropped.
    pub drops: u8,
    /// How often the end of a timeout starts a call of `receive` that has nothing to do.
    pub timeouts: u8,
    /// The mistake.
    pub mistake: Option<Mistake>,
}

/// How datagrams reach the sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// XDP puts packets into CPU queues, and `laminar_select` picks the socket.
    Steered,
    /// `laminar_select` picks the socket.
    Selected,
    /// Classic BPF picks the socket of the CPU where the partition starts.
    ClassicBpf,
}

/// A mistake in the protocol. The search must find a counterexample for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mistake {
    /// The table changes before the next owner knows of the move.
    AnnouncedAfterTable,
    /// The mover does not wait for the old queue.
    QueueNotDrained,
    /// The selector always picks the socket of the table.
    SelectorIgnoresQueue,
    /// The mover does not wait for the programs that picked the old socket.
    DeliveriesNotAwaited,
    /// The move completes before the old socket is drained.
    SocketNotDrained,
    /// With classic BPF: the socket of the CPU where the partition starts is not drained.
    StartNotDrained,
    /// The former owner passes datagrams on without marking them as older.
    OlderNotMarked,
    /// The former owner keeps its ready queue.
    ReadyQueueNotPassedOn,
    /// The receiver reads the role that releases held datagrams after it took the mail.
    RoleReadAfterMail,
    /// A receiver that sees itself as the owner does not look for mail.
    MailNotLookedFor,
    /// A receiver that sees itself as the former owner does not look for mail.
    MailNotLookedForByFormerOwner,
    /// A former owner makes new datagrams ready, and passes them on later.
    FormerOwnerKeepsReady,
    /// A receiver looks for mail before it reads its role.
    MailLookedForBeforeRole,
    /// The receiver reads the number of the drain request when it reports it.
    RequestReadLate,
    /// The end of a move does not wake the new owner.
    NewOwnerNotWoken,
    /// A dropped receiver puts its ready datagrams back without their mark.
    MarkLostWithReceiver,
    /// The mail is dispatched in the order of its arrival, whatever its marks.
    MailNotOrderedByMark,
    /// A dropped receiver puts its datagrams behind newer mail.
    UnhandledBehindMail,
    /// A receiver that holds datagrams stops reading its socket.
    HeldStopsSocket,
    /// A move elsewhere replaces the pending move.
    PendingMoveNotCompleted,
}

impl Mistake {
    /// Every mistake, each in a model in which it does harm.
    pub fn all() -> Vec<Moves> {
        let [steered, selected, classic] = Moves::ways();
        // A missing end shows only when all states are known, so these two get small bounds.
        let small = Moves { datagrams: [1, 1], moves: 1, failures: 0, drops: 0, ..selected };
        [
            (Mistake::AnnouncedAfterTable, steered),
            (Mistake::QueueNotDrained, steered),
            (Mistake::SelectorIgnoresQueue, steered),
            (Mistake::DeliveriesNotAwaited, selected),
            (Mistake::SocketNotDrained, selected),
            (Mistake::StartNotDrained, classic),
            (Mistake::OlderNotMarked, steered),
            (Mistake::ReadyQueueNotPassedOn, steered),
            (Mistake::RoleReadAfterMail, Moves { timeouts: 1, ..steered }),
            (Mistake::MailNotLookedFor, steered),
            (Mistake::MailNotLookedForByFormerOwner, steered),
            (Mistake::FormerOwnerKeepsReady, classic),
            (Mistake::MailLookedForBeforeRole, steered),
            (Mistake::RequestReadLate, steered),
            (Mistake::NewOwnerNotWoken, small),
            (Mistake::MarkLostWithReceiver, steered),
            (Mistake::MailNotOrderedByMark, steered),
            (Mistake::UnhandledBehindMail, steered),
            (Mistake::HeldStopsSocket, small),
            (Mistake::PendingMoveNotCompleted, steered),
        ]
        .map(|(mistake, model)| Moves { mistake: Some(mistake), ..model })
        .into()
    }
}

impl Moves {
    /// A model of each way, with small bounds.
    pub fn ways() -> [Moves; 3] {
        let selected = Moves {
            way: Way::Selected,
            cpus: 2,
            start: 0,
            other_owner: 1,
            datagrams: [2, 1],
            moves: 2,
            failures: 1,
            drops: 1,
            timeouts: 0,
            mistake: None,
        };
        [
            Moves { way: Way::Steered, datagrams: [2, 0], ..selected },
            selected,
            Moves { way: Way::ClassicBpf, cpus: 3, datagrams: [2, 0], ..selected },
        ]
    }

    fn has(&self, mistake: Mistake) -> bool {
        self.mistake == Some(mistake)
    }
}

impl Model for Moves {
    type State = State;

    fn initial(&self) -> State {
        State::new(self.cpus, self.start)
    }

    fn steps(&self, state: &State) -> Vec<(Step, State)> {
        let mut steps = Steps::default();
        self.kernel(state, &mut steps);
        self.mover(state, &mut steps);
        (0..self.cpus).for_each(|cpu| self.receiver(state, cpu, &mut steps));
        steps.0
    }

    fn fault(&self, state: &State) -> Option<&'static str> {
        state.fault
    }

    fn inevitable(&self) -> Vec<Inevitable<State>> {
        vec![
            Inevitable {
                name: "every datagram is handled, and every move completes",
                relied_on: |step| step.kind == Kind::Fair,
                goal: |state| {
                    state.sent == state.handled && matches!(state.ownership, Ownership::Owned(_))
                },
            },
            Inevitable {
                name: "a receiver handles the other partition, whatever mover and others do",
                relied_on: |step| step.kind == Kind::Fair && step.actor == "receiver1",
                goal: |state| state.has_no_other_datagram(1),
            },
            Inevitable {
                name: "a former owner handles the other partition, whatever mover and others do",
                relied_on: |step| step.kind == Kind::Fair && step.actor == "receiver0",
                goal: |state| state.has_no_other_datagram(0),
            },
        ]
    }
}

impl State {
    /// Whether no datagram of the partition that stays waits at this CPU.
    fn has_no_other_datagram(&self, cpu: Cpu) -> bool {
        let is_other = |datagram: &Datagram| datagram.partition == STAYING;
        let receiver = &self.receivers[cpu];
        let mail = receiver.mail.iter().chain(&self.mailboxes[cpu].mail).map(|mail| mail.datagram);
        let in_hand = receiver.in_hand.map(|(mail, _)| mail.datagram);
        !(mail.chain(in_hand).any(|datagram| is_other(&datagram))
            || self.sockets[cpu].iter().any(is_other)
            || receiver.batch.iter().any(is_other)
            || receiver.ready.iter().any(is_other))
    }
}
