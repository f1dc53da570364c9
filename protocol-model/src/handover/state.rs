//! The state of the processes, of their streams and of the kernel's objects.

/// The position of a process in [`State::processes`].
pub type Id = usize;

/// The names of the processes.
pub const NAMES: [&str; 3] = ["old", "successor1", "successor2"];

/// How many generations the lock file can count in this model.
pub const GENERATIONS: usize = 8;

/// One state of the hand-over.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct State {
    pub(super) processes: Vec<Process>,
    /// The stream of each successor.
    pub(super) streams: [Stream; 2],
    pub(super) kernel: Kernel,
    pub(super) traffic: Traffic,
    pub(super) used: Used,
    /// Whether anything happened that may prevent a hand-over: a failure, a stop, the end of a
    /// wait, or a withdrawn offer.
    pub(super) disturbed: bool,
    /// The rule that the last step broke.
    pub(super) fault: Option<&'static str>,
}

/// What the kernel holds for all processes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Kernel {
    /// The number in the lock file.
    pub generation: u8,
    /// The process that has locked each byte of the lock file.
    pub locks: [Option<Id>; GENERATIONS],
    /// A mistake: all offers use byte 0.
    pub one_lock: bool,
    /// Whether a bpf_link holds the program, which the last holder of the link detaches.
    pub link: bool,
    /// The XDP program on the interface.
    pub program: Program,
    /// The process whose programs select and filter the sockets.
    pub selector: Id,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Program {
    None,
    Of(Id),
    /// Another tool's program.
    Foreign,
}

/// The datagrams of one sender. They are numbered from 1.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Traffic {
    pub sent: u8,
    pub socket: Vec<u8>,
    /// The last datagram that a handler got.
    pub handled: u8,
    /// Bit n: datagram n was lost in a way that the protocol names, for example in a killed
    /// process.
    pub excused: u8,
}

/// How much of the bounds is used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Used {
    pub kills: u8,
    pub stops: u8,
    pub failures: u8,
    pub foreign: u8,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Process {
    pub life: Life,
    pub stage: Stage,
    /// Whether receivers read the sockets.
    pub reads: bool,
    /// The datagram that a receiver has read and not handled; 0 for none.
    pub in_hand: u8,
    /// The datagram in a mailbox; 0 for none.
    pub mail: u8,
    /// The generation of the offer by which the process got the ingest or is about to.
    pub granted: u8,
    /// The generation of the offer that the process makes.
    pub offered: u8,
    /// The program that the process takes for its own, and that others must expect.
    pub runs: Program,
    /// Whether this successor failed by itself, so that it may give up.
    pub failed: bool,
    pub holds: Holds,
}

/// The descriptors of a process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Holds {
    pub stream: bool,
    pub lock: bool,
    /// The sockets, the maps, and the bpf_link if there is one.
    pub sockets: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Life {
    Running,
    Stopped,
    /// Killed; the kernel has not closed all descriptors yet.
    Dying,
    Dead,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    NotStarted,
    // A successor.
    TermsSent,
    Loading,
    Ready,
    TryingLock,
    Comparing,
    Replacing,
    Installing,
    Confirming,
    Undoing,
    Releasing,
    Refusing,
    AwaitingEnd,
    GaveUp,
    // A process that owns the ingest. The number names the stream of the offer.
    Serving,
    Offering(u8),
    Offered(u8),
    ReceiversStopped(u8),
    Released(u8),
    AwaitingMine(u8),
    TakingLockAgain(u8),
    AwaitingOutcome(u8),
    PuttingBack(u8),
    Withdrawing(u8),
    Closing(u8),
    Ended,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Message {
    Terms,
    Inventory(u8),
    Ready,
    Yours,
    Mine,
    Refused,
}

/// The stream between an old process and one successor.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Stream {
    pub old: Id,
    pub to_old: Vec<Message>,
    pub to_new: Vec<Message>,
    pub old_end_open: bool,
    pub new_end_open: bool,
}

impl State {
    /// The old process serves, and no successor has started.
    pub(super) fn new(second: bool, one_lock: bool, link: bool) -> State {
        let successor = Process {
            life: Life::Running,
            stage: Stage::NotStarted,
            reads: false,
            in_hand: 0,
            mail: 0,
            granted: 0,
            offered: 0,
            runs: Program::None,
            failed: false,
            holds: Holds::default(),
        };
        let old = Process {
            stage: Stage::Serving,
            reads: true,
            runs: Program::Of(0),
            holds: Holds { stream: false, lock: true, sockets: true },
            ..successor.clone()
        };
        let mut processes = vec![old, successor.clone()];
        if second {
            processes.push(successor);
        }
        let mut locks = [None; GENERATIONS];
        locks[0] = Some(0);
        State {
            processes,
            streams: [Stream::default(), Stream::default()],
            kernel: Kernel {
                generation: 0,
                locks,
                one_lock,
                link,
                program: Program::Of(0),
                selector: 0,
            },
            traffic: Traffic::default(),
            used: Used::default(),
            disturbed: false,
            fault: None,
        }
    }
}

impl Process {
    pub fn lives(&self) -> bool {
        matches!(self.life, Life::Running | Life::Stopped)
    }

    /// Whether the process owns the ingest, or did and has not decided yet that another does.
    pub fn is_old(&self) -> bool {
        use Stage::*;
        match self.stage {
            Serving | Offering(_) | Offered(_) | ReceiversStopped(_) | Released(_)
            | AwaitingMine(_) | TakingLockAgain(_) | AwaitingOutcome(_) | PuttingBack(_)
            | Withdrawing(_) | Closing(_) => true,
            NotStarted | TermsSent | Loading | Ready | TryingLock | Comparing | Replacing
            | Installing | Confirming | Undoing | Releasing | Refusing | AwaitingEnd | GaveUp
            | Ended => false,
        }
    }

    /// Whether the process is a successor that has all descriptors.
    pub fn is_successor(&self) -> bool {
        use Stage::*;
        matches!(
            self.stage,
            Loading
                | Ready
                | TryingLock
                | Comparing
                | Replacing
                | Installing
                | Confirming
                | Undoing
                | Releasing
                | Refusing
                | AwaitingEnd
        )
    }
}
