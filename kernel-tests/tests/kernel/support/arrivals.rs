//! Records which datagrams arrived, in memory that outlives the receiving process.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use anyhow::{Result, ensure};
use testbed::SharedCounters;

use crate::runtime::Handler;

pub const SENDERS: usize = 8;
pub const PARTITIONS: usize = 64;

// Indices of the counters. A "place" is a pair of a partition and a sender.
const RECEIVED: usize = 0;
const OUT_OF_ORDER: usize = 1;
const FIRST_WRONG: usize = 2;
const CPUS: usize = 3;
/// For each place: one plus the number in its first datagram, or 0 if no datagram has arrived.
const FIRST: usize = CPUS + PARTITIONS;
/// For each place: the number that its next datagram must have.
const EXPECTED: usize = FIRST + PARTITIONS * SENDERS;

/// The numbered datagrams that all processes received, counted together.
#[derive(Clone, Debug)]
pub struct Arrivals(Arc<SharedCounters>);

impl Arrivals {
    pub fn new() -> Result<Arrivals> {
        Ok(Arrivals(Arc::new(SharedCounters::new(EXPECTED + PARTITIONS * SENDERS)?)))
    }

    /// Opens the arrivals that another process created at this path (see [`Arrivals::path`]).
    pub fn open(path: &str) -> Result<Arrivals> {
        Ok(Arrivals(Arc::new(SharedCounters::open(path)?)))
    }

    pub fn path(&self) -> String {
        self.0.path()
    }

    /// The handler that records the datagrams of one partition.
    pub fn handler(&self, partition: u32) -> Handler {
        let arrivals = self.clone();
        Box::new(move |datagram| {
            assert_eq!(datagram.partition, partition);
            let sender = datagram.payload[0] as usize;
            let number = u64::from_be_bytes(datagram.payload[1..9].try_into().unwrap());
            arrivals.add(partition as usize, sender, number);
        })
    }

    fn add(&self, partition: usize, sender: usize, number: u64) {
        let numbers = self.0.numbers();
        // Separate loads and stores are enough here, because only the partition's owner writes
        // these counters.
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

    /// The number of datagrams that arrived.
    pub fn received(&self) -> u64 {
        self.0.numbers()[RECEIVED].load(Relaxed)
    }

    /// The CPUs on which the partition's datagrams were handled, as a bit mask.
    pub fn cpus(&self, partition: usize) -> u64 {
        self.0.numbers()[CPUS + partition].load(Relaxed)
    }

    /// The range of datagram numbers that arrived at a place.
    pub fn seen(&self, place: usize) -> Range<u64> {
        let numbers = self.0.numbers();
        let first = numbers[FIRST + place].load(Relaxed);
        first.saturating_sub(1)..numbers[EXPECTED + place].load(Relaxed)
    }

    /// Fails unless every datagram arrived exactly once and in order. `sent` is the number of
    /// datagrams that were sent to each place.
    pub fn check(&self, sent: &[u64]) -> Result<()> {
        self.check_order()?;
        let all: u64 = sent.iter().sum();
        ensure!(self.received() == all, "{} of {all} datagrams arrived", self.received());
        for (place, sent) in sent.iter().enumerate() {
            let (seen, partition) = (self.seen(place), place / SENDERS);
            ensure!(seen == (0..*sent), "partition {partition}: {seen:?} of {sent} arrived");
        }
        Ok(())
    }

    /// Fails unless the numbers at each place arrived in sequence, without a gap.
    pub fn check_order(&self) -> Result<()> {
        let numbers = self.0.numbers();
        let wrong = numbers[OUT_OF_ORDER].load(Relaxed);
        let first = numbers[FIRST_WRONG].load(Relaxed);
        ensure!(
            wrong == 0,
            "{wrong} datagrams out of order, first: partition {}, sender {}, number {}",
            first >> 56,
            first >> 48 & 0xff,
            first & 0xffff_ffff_ffff
        );
        Ok(())
    }
}
