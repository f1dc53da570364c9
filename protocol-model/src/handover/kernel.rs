//! What the kernel does for the processes: the lock, the sockets, the attached program.

use super::state::{GENERATIONS, Id, Life, Message, Program, Stage, State};

impl State {
    /// Locks one byte of the lock file. False if another process has locked it.
    pub(super) fn try_lock(&mut self, id: Id, byte: u8) -> bool {
        let byte = self.byte(byte);
        let lock = &mut self.kernel.locks[byte];
        let is_free = lock.is_none_or(|holder| holder == id);
        if is_free {
            *lock = Some(id);
        }
        is_free
    }

    pub(super) fn can_lock(&self, id: Id, byte: u8) -> bool {
        self.kernel.locks[self.byte(byte)].is_none_or(|holder| holder == id)
    }

    pub(super) fn unlock(&mut self, id: Id, byte: u8) {
        let byte = self.byte(byte);
        let lock = &mut self.kernel.locks[byte];
        if *lock == Some(id) {
            *lock = None;
        }
    }

    /// Whether a process is about to lose its descriptors. The waits for the lock are longer than
    /// that takes.
    pub(super) fn someone_is_dying(&self) -> bool {
        self.processes.iter().any(|process| process.life == Life::Dying)
    }

    /// Replaces the XDP program, if it is the expected one. False if another is attached.
    pub(super) fn replace(&mut self, id: Id, expected: Option<Program>, new: Program) -> bool {
        let attached = self.kernel.program;
        if expected.is_some_and(|expected| expected != attached) {
            return false;
        }
        self.check_may_change(id);
        if attached == Program::Foreign {
            self.fault.get_or_insert("another tool's program is never displaced");
        }
        self.kernel.program = new;
        true
    }

    pub(super) fn install_selector(&mut self, id: Id, selector: Id) {
        self.check_may_change(id);
        self.kernel.selector = selector;
    }

    fn check_may_change(&mut self, id: Id) {
        if !self.serves_by_lock(id) {
            self.fault.get_or_insert("only the process that holds the lock changes programs");
        }
    }

    pub(super) fn kill(&mut self, id: Id) {
        let process = &mut self.processes[id];
        process.life = Life::Dying;
        process.reads = false;
        for datagram in [&mut process.in_hand, &mut process.mail] {
            let number = std::mem::take(datagram);
            self.traffic.excused |= if number == 0 { 0 } else { 1 << number };
        }
        self.note_death(id);
    }

    fn note_death(&mut self, id: Id) {
        let holds = self.processes[id].holds;
        if self.processes[id].life == Life::Dying && !(holds.stream || holds.lock || holds.sockets)
        {
            self.processes[id].life = Life::Dead;
        }
    }

    /// Closes the process's ends of all streams.
    pub(super) fn close_streams(&mut self, id: Id) {
        for (at, stream) in self.streams.iter_mut().enumerate() {
            if stream.old_end_open && stream.old == id {
                stream.old_end_open = false;
                stream.to_old.clear();
            }
            if at + 1 == id && stream.new_end_open {
                stream.new_end_open = false;
                stream.to_new.clear();
            }
        }
        self.processes[id].holds.stream = false;
        self.note_death(id);
        self.free_unused_sockets();
    }

    /// Closes one end of one stream. What was sent before can still be read.
    pub(super) fn close_old_end(&mut self, id: Id, stream: u8) {
        let end = &mut self.streams[usize::from(stream)];
        end.old_end_open = false;
        end.to_old.clear();
        self.processes[id].holds.stream =
            self.streams.iter().any(|stream| stream.old_end_open && stream.old == id);
    }

    pub(super) fn close_lock(&mut self, id: Id) {
        for lock in &mut self.kernel.locks {
            *lock = lock.filter(|holder| *holder != id);
        }
        self.processes[id].holds.lock = false;
        self.note_death(id);
    }

    pub(super) fn close_sockets(&mut self, id: Id) {
        self.processes[id].holds.sockets = false;
        self.note_death(id);
        self.free_unused_sockets();
    }

    /// Whether a process holds the sockets, or they are in a stream that a process can still read.
    pub(super) fn sockets_exist(&self) -> bool {
        let in_stream = |message: &Message| matches!(message, Message::Inventory(_));
        self.processes.iter().any(|process| process.holds.sockets)
            || self.streams.iter().any(|stream| stream.to_new.iter().any(in_stream))
    }

    fn free_unused_sockets(&mut self) {
        if self.sockets_exist() {
            return;
        }
        for datagram in self.traffic.socket.drain(..) {
            self.traffic.excused |= 1 << datagram;
        }
        if self.kernel.link && self.kernel.program != Program::Foreign {
            self.kernel.program = Program::None;
        }
    }

    pub(super) fn deliver(&mut self, datagram: u8) {
        if datagram <= self.traffic.handled {
            self.fault.get_or_insert("datagrams are neither doubled nor overtaken");
        }
        let missing = (self.traffic.handled + 1..datagram)
            .any(|number| self.traffic.excused & 1 << number == 0);
        if missing {
            self.fault.get_or_insert("datagrams are neither lost nor overtaken");
        }
        self.traffic.handled = self.traffic.handled.max(datagram);
    }

    /// Sends to the old process. Sending fails in silence if the other end is closed.
    pub(super) fn send_to_old(&mut self, stream: u8, message: Message) {
        let stream = &mut self.streams[usize::from(stream)];
        if stream.old_end_open {
            stream.to_old.push(message);
        }
    }

    /// Sends to the new process. False if the other end is closed.
    pub(super) fn send_to_new(&mut self, stream: u8, message: Message) -> bool {
        let stream = &mut self.streams[usize::from(stream)];
        if stream.new_end_open {
            stream.to_new.push(message);
        }
        stream.new_end_open
    }

    /// Whether the process holds the byte of the present generation.
    pub(super) fn serves_by_lock(&self, id: Id) -> bool {
        self.kernel.locks[self.byte(self.kernel.generation)] == Some(id)
    }

    fn byte(&self, generation: u8) -> usize {
        if self.kernel.one_lock { 0 } else { usize::from(generation) }
    }

    pub(super) fn has_room_for_offers(&self) -> bool {
        usize::from(self.kernel.generation) + 3 < GENERATIONS
    }

    /// Ends the part of a successor: closes its descriptors.
    pub(super) fn give_up(&mut self, id: Id) {
        let process = &self.processes[id];
        let was_valid = process.granted == self.kernel.generation
            && process.is_successor()
            && process.stage != Stage::Loading
            && !process.failed;
        self.close_streams(id);
        self.close_lock(id);
        let others_live = self
            .processes
            .iter()
            .enumerate()
            .any(|(other, process)| other != id && process.lives() && process.is_old());
        if was_valid && !others_live {
            self.fault.get_or_insert("the successor of a killed process does not give up");
        }
        if was_valid && !self.disturbed {
            self.fault.get_or_insert("an undisturbed hand-over succeeds");
        }
        self.close_sockets(id);
        let process = &mut self.processes[id];
        process.stage = Stage::GaveUp;
        process.reads = false;
        process.runs = Program::None;
        process.failed = false;
    }
}
