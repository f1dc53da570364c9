//! The ways from the network to the sockets.

use super::state::{Cpu, Datagram, MOVING, Queued, Running, STAYING, State};
use super::{Mistake, Moves, Steps, Way};
use crate::explore::Kind;

impl Moves {
    pub(super) fn kernel(&self, state: &State, steps: &mut Steps) {
        for partition in [MOVING, STAYING] {
            let at = usize::from(partition);
            match state.running[at] {
                // The packets of one sender are processed one after the other.
                None if state.sent[at] < self.datagrams[at] => {
                    steps.add(state, "network", "look up a datagram's CPU", Kind::Chance, |next| {
                        next.sent[at] += 1;
                        let datagram = Datagram { partition, number: next.sent[at] };
                        let to = self.look_up(next, datagram);
                        let running = Running { datagram, to, is_awaited: false };
                        next.running[at] = Some(running);
                    });
                }
                None => {}
                Some(run) => {
                    steps.add(state, "network", "put a datagram there", Kind::Fair, |next| {
                        next.running[at] = None;
                        match self.way {
                            Way::Steered => {
                                next.queues[run.to].push(Queued::Datagram(run.datagram));
                            }
                            Way::Selected | Way::ClassicBpf => {
                                deliver(next, run.to, run.datagram);
                            }
                        }
                    });
                }
            }
        }
        for cpu in 0..state.queues.len() {
            self.queue_thread(state, cpu, steps);
        }
    }

    fn look_up(&self, state: &State, datagram: Datagram) -> Cpu {
        match (datagram.partition, self.way) {
            (STAYING, _) => self.other_owner,
            (_, Way::Steered) => state.table.queue,
            (_, Way::Selected) => state.table.socket,
            (_, Way::ClassicBpf) => self.start,
        }
    }

    /// Takes a packet out of a CPU's queue. `laminar_select` picks the socket.
    fn queue_thread(&self, state: &State, cpu: Cpu, steps: &mut Steps) {
        if let Some(run) = state.delivering[cpu] {
            steps.add(
                state,
                "network",
                "put a queued datagram into a socket",
                Kind::Fair,
                |next| {
                    next.delivering[cpu] = None;
                    deliver(next, run.to, run.datagram);
                },
            );
            return;
        }
        match state.queues[cpu].first() {
            Some(Queued::Marker) => {
                steps.add(state, "network", "the marker leaves the queue", Kind::Fair, |next| {
                    next.queues[cpu].remove(0);
                });
            }
            Some(Queued::Datagram(datagram)) => {
                let datagram = *datagram;
                steps.add(state, "network", "select a socket", Kind::Fair, |next| {
                    next.queues[cpu].remove(0);
                    let to = match datagram.partition {
                        STAYING => self.other_owner,
                        _ if self.has(Mistake::SelectorIgnoresQueue) => next.table.socket,
                        _ if next.table.queue == cpu => cpu,
                        _ => next.table.socket,
                    };
                    next.delivering[cpu] = Some(Running { datagram, to, is_awaited: false });
                });
            }
            None => {}
        }
    }
}

fn deliver(next: &mut State, cpu: Cpu, datagram: Datagram) {
    next.sockets[cpu].push(datagram);
}

impl State {
    /// Marks the programs that are running now.
    pub(super) fn await_programs(&mut self) {
        let running = self.running.iter_mut().chain(&mut self.delivering);
        running.flatten().for_each(|run| run.is_awaited = true);
    }

    pub(super) fn programs_have_ended(&self) -> bool {
        let mut running = self.running.iter().chain(&self.delivering).flatten();
        !running.any(|run| run.is_awaited)
    }
}
