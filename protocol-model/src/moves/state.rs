//! The state of the kernel's ways, of the receivers and of the mover.

/// The position of a CPU.
pub type Cpu = usize;

/// The partition that moves.
pub const MOVING: u8 = 0;
/// The partition that stays.
pub const STAYING: u8 = 1;

pub const RECEIVERS: [&str; 3] = ["receiver0", "receiver1", "receiver2"];

/// One state of the moves.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct State {
    /// How many datagrams of each partition were sent, and handled.
    pub(super) sent: [u8; 2],
    pub(super) handled: [u8; 2],
    pub(super) table: Entry,
    /// The program that runs for a partition's sender: before the CPU queue with XDP, otherwise
    /// in the network stack.
    pub(super) running: [Option<Running>; 2],
    /// What the queue thread of each CPU is putting into a socket.
    pub(super) delivering: Vec<Option<Running>>,
    pub(super) queues: Vec<Vec<Queued>>,
    pub(super) sockets: Vec<Vec<Datagram>>,
    pub(super) ownership: Ownership,
    pub(super) mailboxes: Vec<Mailbox>,
    pub(super) receivers: Vec<Receiver>,
    pub(super) mover: Mover,
    pub(super) drops: u8,
    pub(super) timeouts: u8,
    pub(super) fault: Option<&'static str>,
}

/// One sender's datagram. The numbers of each partition count from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Datagram {
    pub partition: u8,
    pub number: u8,
}

/// The moving partition's entry of the table `steering`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Entry {
    pub queue: Cpu,
    pub socket: Cpu,
}

/// A program that has looked a datagram's CPU up and has not put the datagram there yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Running {
    pub datagram: Datagram,
    pub to: Cpu,
    /// Whether the mover waits for this run to end.
    pub is_awaited: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Queued {
    Datagram(Datagram),
    /// Shows the mover that everything before it has left the queue.
    Marker,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ownership {
    Owned(Cpu),
    Moving { from: Cpu, to: Cpu, step: MoveStep },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MoveStep {
    Announced,
    QueueMoved,
    SocketMoved,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    Owner,
    NextOwner,
    FormerOwner(Cpu),
    Other(Cpu),
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Mailbox {
    pub mail: Vec<Mail>,
    pub requested: u8,
    pub met: u8,
    pub is_woken: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Mail {
    pub datagram: Datagram,
    /// Whether the datagram comes before all that the next owner holds.
    pub is_older: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Receiver {
    pub is_in_use: bool,
    pub at: At,
    /// The drain request that the present call can meet.
    pub request: u8,
    /// The role in the moving partition before the mail was taken, if datagrams were held.
    pub role: Option<Role>,
    pub mail: Vec<Mail>,
    pub batch: Vec<Datagram>,
    /// A datagram that is about to be put into another receiver's mailbox.
    pub in_hand: Option<(Mail, Cpu)>,
    pub held: Vec<Datagram>,
    pub ready: Vec<Datagram>,
}

/// Where a call of `receive` has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum At {
    Outside,
    // `settle`, and what follows it.
    RolesToRead(Then),
    MailToTake(Then),
    OlderMail(Then),
    NewerMail(Then),
    PassingOn(Role, Then),
    // `drain_socket`.
    Draining,
    Reporting,
    HandlingReady,
    SocketToRead,
    Batch,
    /// The role of the batch's first datagram is read: whether it is `Owner`.
    IsOwner(bool),
    ToAccept,
}

/// What follows `settle`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Then {
    /// Drain the socket if a request is not met.
    Drain,
    Report,
    Accept,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Mover {
    pub at: MoverAt,
    pub moves: u8,
    pub failures: u8,
    /// The target of the call. It differs from that of the pending move if the call first
    /// completes another move.
    pub target: Cpu,
    /// The number of the drain request that the pending move has made; 0 for none.
    pub request: u8,
    /// The same for the CPU where the partition starts, with classic BPF.
    pub start_request: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MoverAt {
    /// No call is running. The pending move, if any, goes on with the next call.
    Idle,
    Called,
    Announced,
    QueueWritten,
    /// The mover waits for the programs that were running.
    AwaitingPrograms,
    /// The mover waits for the marker in the former owner's queue.
    AwaitingMarker,
    QueueDrained,
    AwaitingStart,
    SocketWritten,
    AwaitingDeliveries,
    AwaitingSocket,
    Drained,
}

impl State {
    pub(super) fn new(cpus: usize, from: Cpu) -> State {
        let receiver = Receiver {
            is_in_use: true,
            at: At::Outside,
            request: 0,
            role: None,
            mail: Vec::new(),
            batch: Vec::new(),
            in_hand: None,
            held: Vec::new(),
            ready: Vec::new(),
        };
        State {
            sent: [0; 2],
            handled: [0; 2],
            table: Entry { queue: from, socket: from },
            running: [None; 2],
            delivering: vec![None; cpus],
            queues: vec![Vec::new(); cpus],
            sockets: vec![Vec::new(); cpus],
            ownership: Ownership::Owned(from),
            mailboxes: vec![Mailbox::default(); cpus],
            receivers: vec![receiver; cpus],
            mover: Mover {
                at: MoverAt::Idle,
                moves: 0,
                failures: 0,
                target: from,
                request: 0,
                start_request: 0,
            },
            drops: 0,
            timeouts: 0,
            fault: None,
        }
    }

    pub(super) fn role(&self, cpu: Cpu) -> Role {
        match self.ownership {
            Ownership::Owned(owner) if owner == cpu => Role::Owner,
            Ownership::Owned(owner) => Role::Other(owner),
            Ownership::Moving { from, to, step } if from == cpu => match step {
                MoveStep::SocketMoved => Role::FormerOwner(to),
                _ => Role::Owner,
            },
            Ownership::Moving { to, .. } if to == cpu => Role::NextOwner,
            Ownership::Moving { to, .. } => Role::Other(to),
        }
    }

    pub(super) fn handle(&mut self, datagram: Datagram) {
        let handled = &mut self.handled[usize::from(datagram.partition)];
        *handled += 1;
        if datagram.number != *handled {
            self.fault = Some("each datagram is handled once and in order");
        }
    }
}
