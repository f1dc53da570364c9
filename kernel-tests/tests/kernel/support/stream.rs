//! Numbered datagrams from several senders to all partitions.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use testbed::TestNet;
use testbed::frame::datagram;

use super::arrivals::{Arrivals, PARTITIONS, SENDERS};

/// The maximum number of datagrams that are sent but not yet received. The maximum is below the 256
/// packets that the ring of a veth device holds, so the ring does not overflow.
const WINDOW: u64 = 200;

/// The number of datagrams that the large tests send: one million, or the value of the environment
/// variable LAMINAR_XDP_DATAGRAMS. On emulated machines, which are slow, the variable is set to a
/// smaller number.
pub fn datagrams() -> u64 {
    let given = std::env::var("LAMINAR_XDP_DATAGRAMS").ok();
    given.map_or(1_000_000, |number| number.parse().expect("LAMINAR_XDP_DATAGRAMS is a number"))
}

/// Sends a thousand datagrams. Fails unless each datagram arrives exactly once and in order.
pub fn send_a_thousand(net: &TestNet, arrivals: &Arrivals) -> Result<()> {
    let mut stream = Stream::new(net, arrivals)?;
    stream.send(1000)?;
    stream.wait_for_all()?;
    stream.check()
}

/// Several sending sockets, and the numbers of the datagrams that they send.
pub struct Stream {
    sockets: Vec<UdpSocket>,
    arrivals: Arrivals,
    /// For each pair of partition and sender, the number that its next datagram gets.
    pub next: Vec<u64>,
    pub sent: u64,
}

impl Stream {
    pub fn new(net: &TestNet, arrivals: &Arrivals) -> Result<Stream> {
        let sockets = (0..SENDERS).map(|_| net.sending_socket()).collect::<Result<_>>()?;
        let (arrivals, next) = (arrivals.clone(), vec![0; PARTITIONS * SENDERS]);
        Ok(Stream { sockets, arrivals, next, sent: 0 })
    }

    /// Sends datagrams, with at most `WINDOW` in flight.
    pub fn send(&mut self, datagrams: u64) -> Result<()> {
        for _ in 0..datagrams {
            self.send_one()?;
            if self.sent - self.arrivals.received() >= WINDOW {
                self.wait(WINDOW / 2)?;
            }
        }
        Ok(())
    }

    /// Sends one datagram without waiting for earlier ones to arrive.
    pub fn send_one(&mut self) -> Result<()> {
        let (sender, partition) = (self.sent as usize % SENDERS, self.sent as usize / SENDERS);
        // Consecutive datagrams of one sender go to distant partitions.
        let partition = partition * 37 % PARTITIONS;
        let number = &mut self.next[partition * SENDERS + sender];
        let mut payload = [0; 9];
        payload[0] = sender as u8;
        payload[1..].copy_from_slice(&number.to_be_bytes());
        // The key modulo the number of partitions is the partition.
        let key = partition as u64 + *number % 1000 * PARTITIONS as u64;
        let datagram = datagram(key as u32, &payload);
        self.sockets[sender].send_to(&datagram, TestNet::destination(9999))?;
        *number += 1;
        self.sent += 1;
        Ok(())
    }

    /// Sends at least `datagrams` datagrams, and keeps sending while `work` runs. Then waits until
    /// all datagrams have arrived.
    pub fn send_while(
        &mut self,
        datagrams: u64,
        work: impl FnOnce() -> Result<()> + Send,
    ) -> Result<()> {
        std::thread::scope(|scope| {
            let working = scope.spawn(work);
            let begin = self.sent;
            while self.sent - begin < datagrams || !working.is_finished() {
                self.send(100)?;
            }
            working.join().expect("the work does not panic")
        })?;
        self.wait_for_all()
    }

    /// Waits until all datagrams have arrived.
    pub fn wait_for_all(&self) -> Result<()> {
        self.wait(0)
    }

    /// Fails unless every datagram arrived exactly once and in order.
    pub fn check(&self) -> Result<()> {
        self.arrivals.check(&self.next)
    }

    fn wait(&self, under_way: u64) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.sent.saturating_sub(self.arrivals.received()) > under_way {
            ensure!(
                Instant::now() < deadline,
                "{} of {} datagrams arrived within 10 s",
                self.arrivals.received(),
                self.sent
            );
            std::thread::sleep(Duration::from_micros(20));
        }
        Ok(())
    }
}
