//! Numbered datagrams from several senders to all partitions, and the account of what
//! arrived, which outlives the process that receives them.

use std::net::UdpSocket;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use testbed::frame::datagram;
use testbed::{SharedCounters, TestNet};

use crate::runtime::Handler;

pub const SENDERS: usize = 8;
pub const PARTITIONS: usize = 64;

/// A veth's ring holds 256 packets: no more are ever on their way.
const WINDOW: u64 = 200;

/// How many datagrams a stream has: a million, or fewer where the machine is emulated.
pub fn datagrams() -> u64 {
    let given = std::env::var("LAMINAR_XDP_DATAGRAMS").ok();
    given.map_or(1_000_000, |number| number.parse().expect("LAMINAR_XDP_DATAGRAMS is a number"))
}

// Places in the shared numbers, in front of one for each partition and sender.
const RECEIVED: usize = 0;
const OUT_OF_ORDER: usize = 1;
const FIRST_WRONG: usize = 2;
const CPUS: usize = 3;
/// The first number that came, plus one; 0 while there is none.
const FIRST: usize = CPUS + PARTITIONS;
const EXPECTED: usize = FIRST + PARTITIONS * SENDERS;

/// What was received, by any process.
#[derive(Clone, Debug)]
pub struct Log(Arc<SharedCounters>);

impl Log {
    pub fn new() -> Result<Log> {
        Ok(Log(Arc::new(SharedCounters::new(EXPECTED + PARTITIONS * SENDERS)?)))
    }

    /// That of another process, by [`Log::path`].
    pub fn open(path: &str) -> Result<Log> {
        Ok(Log(Arc::new(SharedCounters::open(path)?)))
    }

    pub fn path(&self) -> String {
        self.0.path()
    }

    /// Keeps account of one partition.
    pub fn handler(&self, partition: u32) -> Handler {
        let log = self.clone();
        Box::new(move |datagram| {
            assert_eq!(datagram.partition, partition);
            let sender = datagram.payload[0] as usize;
            let number = u64::from_be_bytes(datagram.payload[1..9].try_into().unwrap());
            log.add(partition as usize, sender, number);
        })
    }

    fn add(&self, partition: usize, sender: usize, number: u64) {
        let numbers = self.0.numbers();
        // Only the partition's owner writes these.
        let place = partition * SENDERS + sender;
        let (first, expected) = (&numbers[FIRST + place], &numbers[EXPECTED + place]);
        if first.load(Relaxed) == 0 {
            first.store(number + 1, Relaxed);
            expected.store(number, Relaxed);
        }
        let in_order = expected.load(Relaxed) == number;
        if !in_order && numbers[OUT_OF_ORDER].fetch_add(1, Relaxed) == 0 {
            let wrong = (partition as u64) << 56 | (sender as u64) << 48 | number;
            numbers[FIRST_WRONG].store(wrong, Relaxed);
        }
        expected.store(number + 1, Relaxed);
        numbers[CPUS + partition].fetch_or(1 << testbed::current_cpu(), Relaxed);
        numbers[RECEIVED].fetch_add(1, Relaxed);
    }

    pub fn received(&self) -> u64 {
        self.0.numbers()[RECEIVED].load(Relaxed)
    }

    /// Bits of the CPUs on which a partition was handled.
    pub fn cpus(&self, partition: usize) -> u64 {
        self.0.numbers()[CPUS + partition].load(Relaxed)
    }

    /// What arrived of one sender in one partition.
    pub fn seen(&self, place: usize) -> Range<u64> {
        let numbers = self.0.numbers();
        let first = numbers[FIRST + place].load(Relaxed);
        first.saturating_sub(1)..numbers[EXPECTED + place].load(Relaxed)
    }

    /// Fails unless everything that was sent arrived once and in order.
    pub fn check(&self, sent: &Stream) -> Result<()> {
        self.check_order()?;
        ensure!(self.received() == sent.sent, "{} of {}", self.received(), sent.sent);
        for (place, sent) in sent.next.iter().enumerate() {
            let (seen, partition) = (self.seen(place), place / SENDERS);
            ensure!(seen == (0..*sent), "partition {partition}: {seen:?} of {sent}");
        }
        Ok(())
    }

    /// Fails unless what arrived of each sender in each partition is one piece.
    pub fn check_order(&self) -> Result<()> {
        let numbers = self.0.numbers();
        let wrong = numbers[OUT_OF_ORDER].load(Relaxed);
        let first = numbers[FIRST_WRONG].load(Relaxed);
        ensure!(
            wrong == 0,
            "{wrong} datagrams out of order, the first of partition {}, sender {}, number {}",
            first >> 56,
            first >> 48 & 0xff,
            first & 0xffff_ffff_ffff
        );
        Ok(())
    }
}

/// The senders.
pub struct Stream {
    sockets: Vec<UdpSocket>,
    log: Log,
    /// The next number of each partition and sender.
    pub next: Vec<u64>,
    pub sent: u64,
}

/// A thousand datagrams: fails unless each arrives once and in order.
pub fn check_a_thousand(wire: &TestNet, log: &Log) -> Result<()> {
    let mut stream = Stream::new(wire, log)?;
    stream.send(1000)?;
    stream.finish()?;
    log.check(&stream)
}

impl Stream {
    pub fn new(wire: &TestNet, log: &Log) -> Result<Stream> {
        let sockets = (0..SENDERS).map(|_| wire.sending_socket()).collect::<Result<_>>()?;
        Ok(Stream { sockets, log: log.clone(), next: vec![0; PARTITIONS * SENDERS], sent: 0 })
    }

    /// Sends so many datagrams, never more at once than the wire holds.
    pub fn send(&mut self, datagrams: u64) -> Result<()> {
        for _ in 0..datagrams {
            self.send_one()?;
            if self.sent - self.log.received() >= WINDOW {
                self.wait(WINDOW / 2)?;
            }
        }
        Ok(())
    }

    /// Sends one datagram, whether any arrive or not.
    pub fn send_one(&mut self) -> Result<()> {
        let (sender, partition) = (self.sent as usize % SENDERS, self.sent as usize / SENDERS);
        // Not in turn: neighbours are of different partitions.
        let partition = partition * 37 % PARTITIONS;
        let number = &mut self.next[partition * SENDERS + sender];
        let mut payload = [0; 9];
        payload[0] = sender as u8;
        payload[1..].copy_from_slice(&number.to_be_bytes());
        let key = partition as u64 + *number % 1000 * PARTITIONS as u64;
        let datagram = datagram(key as u32, &payload);
        self.sockets[sender].send_to(&datagram, TestNet::destination(9999))?;
        *number += 1;
        self.sent += 1;
        Ok(())
    }

    /// Sends at least so many, and goes on while `work` is under way. Then waits until
    /// everything has arrived.
    pub fn go_on_while(
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
        self.finish()
    }

    /// Waits until everything has arrived.
    pub fn finish(&self) -> Result<()> {
        self.wait(0)
    }

    fn wait(&self, under_way: u64) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.sent.saturating_sub(self.log.received()) > under_way {
            ensure!(
                Instant::now() < deadline,
                "{} of {} datagrams arrived, and no more for 10 s",
                self.log.received(),
                self.sent
            );
            std::thread::sleep(Duration::from_micros(20));
        }
        Ok(())
    }
}
