//! Feeds an embedded LaminarDB with thread-per-core ingest, end to end with real packets.
//!
//! A veth pair connects two network namespaces. The receiving namespace has the XDP program and one
//! socket for each CPU, and the sending namespace has eight sockets. The thread of each CPU pushes
//! the values that it receives into the database. There, a continuous query counts and sums the
//! values by partition. While datagrams arrive, this example also sends junk and moves partitions
//! between the CPUs. At the end, it compares the result of the query with the datagrams that it
//! sent, and fails if any number differs.

mod database;
#[path = "../../../loader/examples/thread_per_core/runtime.rs"]
#[allow(dead_code, reason = "the example has more functions than this program uses")]
mod runtime;

use std::net::UdpSocket;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use arrow::util::pretty::pretty_format_batches;
use laminar_xdp::{IngestConfig, XdpConfig};
use testbed::frame::datagram;
use testbed::{TestNet, current_cpu};

use crate::database::{ANSWER, Database, Feed, Tally, tally};
use crate::runtime::{Handler, ThreadPerCoreRuntime};

const DATAGRAMS: u64 = 100_000;
/// The number of datagrams for each packet of junk.
const JUNK_EVERY: u64 = 10;
const SENDERS: usize = 8;
const PARTITIONS: u32 = 64;
const MOVES: u32 = 20;
/// The maximum number of datagrams that are sent but not yet received. The queue of a veth
/// interface has 256 entries. The maximum is lower, so that the queue never overflows and no
/// datagram is lost.
const WINDOW: u64 = 200;
const TIMEOUT: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    if let Some(missing) = testbed::missing_privileges() {
        eprintln!(
            "error: this program {missing}, because it creates network namespaces and loads XDP \
             programs"
        );
        return ExitCode::FAILURE;
    }
    let done = Database::open().and_then(|database| {
        let done = ingest(&database);
        database.close()?;
        done
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn ingest(database: &Database) -> Result<()> {
    let net = TestNet::new().context("create two namespaces and a veth pair")?;
    let cpus = testbed::online_cpus().into_iter().take(2).collect::<Vec<_>>();
    let feeds = cpus.iter().map(|_| database.feed().map(Mutex::new)).collect::<Result<_>>()?;
    let feeds = Arc::new(Feeds { cpus: cpus.clone(), feeds, received: AtomicU64::new(0) });

    let xdp_config = XdpConfig::builder()
        .enabled(true)
        .interface(TestNet::INTERFACE)
        .bpf_object_path(concat!(env!("CARGO_MANIFEST_DIR"), "/../../bpf-prebuilt"))
        .partitions(PARTITIONS)
        .fallback_on_error(false)
        .build()?;
    let config = IngestConfig::new(cpus.clone());
    let start = || {
        ThreadPerCoreRuntime::with_xdp(&config, &xdp_config, |partition| feeds.handler(partition))
    };
    let ingest = net.receiver.enter(start)?;
    println!("CPUs {cpus:?}: {}", ingest.ingest().mode());

    let begin = Instant::now();
    let sent = std::thread::scope(|scope| -> Result<Tally> {
        let sending = scope.spawn(|| send(&net, &feeds));
        for number in 0..MOVES {
            let partition = number % PARTITIONS;
            let to = cpus[(partition as usize + 1) % cpus.len()];
            ingest.move_partition(partition, to)?;
        }
        sending.join().expect("the sender does not panic")
    })?;
    feeds.flush()?;

    let mut answer = database.answer()?;
    while counted(&answer)? < DATAGRAMS && begin.elapsed() < TIMEOUT {
        std::thread::sleep(Duration::from_millis(10));
        answer = database.answer()?;
    }
    // Wait a little longer before reading the final result: if a datagram were wrongly counted
    // twice, the second count could reach the query late.
    std::thread::sleep(Duration::from_millis(200));
    answer = database.answer()?;
    println!("{ANSWER}\n{}", pretty_format_batches(&answer)?);
    let stats = ingest.xdp_stats()?;
    println!("{stats:?}");
    let junk = DATAGRAMS / JUNK_EVERY;
    ensure!(
        stats.verdicts.dropped == junk,
        "{junk} packets of junk were sent, but the program dropped another number: {stats:?}"
    );
    ensure!(tally(&answer)? == sent, "the query returned {answer:?}, but {sent:?} was sent");
    println!(
        "the query counted and summed all {DATAGRAMS} datagrams of {SENDERS} senders in \
         {PARTITIONS} partitions correctly, with {MOVES} moves and {junk} packets of junk, \
         in {:.1?}",
        begin.elapsed()
    );
    Ok(())
}

fn counted(answer: &[arrow::array::RecordBatch]) -> Result<u64> {
    Ok(tally(answer)?.values().map(|(count, _)| *count as u64).sum())
}

/// The feeds into the database, one for each CPU.
struct Feeds {
    cpus: Vec<u32>,
    feeds: Vec<Mutex<Feed>>,
    received: AtomicU64,
}

impl Feeds {
    /// Returns the handler of a partition. The handler runs on the CPU that owns the partition, and
    /// adds the value of each datagram to the feed of that CPU.
    fn handler(self: &Arc<Self>, partition: u32) -> Handler {
        let feeds = self.clone();
        Box::new(move |datagram| {
            let value = datagram.payload.try_into().map(i64::from_be_bytes);
            let index = feeds.cpus.iter().position(|cpu| *cpu == current_cpu()).unwrap_or(0);
            let mut feed = feeds.feeds[index].lock().expect("no handler panics");
            let added = value.map_err(anyhow::Error::from).and_then(|v| feed.add(partition, v));
            match added {
                Ok(()) => drop(feeds.received.fetch_add(1, Ordering::Relaxed)),
                Err(error) => eprintln!("partition {partition}: {error}"),
            }
        })
    }

    /// Pushes the remaining rows: each feed keeps its rows until a batch is full.
    fn flush(&self) -> Result<()> {
        let mut feeds = self.feeds.iter().map(|feed| feed.lock().expect("no handler panics"));
        feeds.try_for_each(|mut feed| feed.flush())
    }
}

/// Sends all datagrams. Returns the expected result of the query.
fn send(net: &TestNet, feeds: &Feeds) -> Result<Tally> {
    let senders = (0..SENDERS).map(|_| net.sending_socket()).collect::<Result<Vec<UdpSocket>>>()?;
    let mut tally = Tally::new();
    for number in 0..DATAGRAMS {
        let sender = &senders[number as usize % SENDERS];
        let (partition, value) = (number * 37 % u64::from(PARTITIONS), number as i64 % 1500);
        sender.send_to(&datagram(partition as u32, &value.to_be_bytes()), destination())?;
        let (count, sum) = tally.entry(partition as i64).or_default();
        (*count, *sum) = (*count + 1, *sum + value);
        if number % JUNK_EVERY == 0 {
            sender.send_to(b"junk that is long enough", destination())?;
        }
        let begin = Instant::now();
        let last = number + 1 == DATAGRAMS;
        let allowed = if last { 0 } else { WINDOW };
        while number + 1 - feeds.received.load(Ordering::Relaxed) > allowed {
            ensure!(begin.elapsed() < TIMEOUT, "datagram {number}: no more datagrams arrive");
            std::thread::sleep(Duration::from_micros(20));
        }
    }
    Ok(tally)
}

fn destination() -> std::net::SocketAddr {
    TestNet::destination(9999)
}
