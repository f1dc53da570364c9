//! LaminarDB fed by thread-per-core ingest, end to end on real packets.
//!
//! Two network namespaces with a veth pair between them; XDP and one socket for each core
//! in one of them; eight senders in the other. Each core's thread pushes what it receives
//! into an embedded LaminarDB, where a continuous query counts and sums by partition, and
//! what that says is compared with what was sent. Some of it is junk, and partitions move
//! meanwhile. Fails if a single number differs.

mod database;
#[path = "../../../loader/examples/thread_per_core/runtime.rs"]
#[allow(dead_code, reason = "it shows more than this program needs")]
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
/// One more in ten is junk.
const JUNK_EVERY: u64 = 10;
const SENDERS: usize = 8;
const PARTITIONS: u32 = 64;
const MOVES: u32 = 20;
/// A veth's ring holds 256 packets: no more are ever on their way.
const WINDOW: u64 = 200;
const PATIENCE: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    if let Some(missing) = testbed::missing_privileges() {
        eprintln!("error: this {missing}, to make network namespaces and load XDP programs");
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
    let wire = TestNet::new().context("make two namespaces and a veth pair")?;
    let cores = testbed::online_cpus().into_iter().take(2).collect::<Vec<_>>();
    let feeds = cores.iter().map(|_| database.feed().map(Mutex::new)).collect::<Result<_>>()?;
    let feeds = Arc::new(Feeds { cores: cores.clone(), feeds, received: AtomicU64::new(0) });

    let xdp_config = XdpConfig::builder()
        .enabled(true)
        .interface(TestNet::INTERFACE)
        .bpf_object_path(concat!(env!("CARGO_MANIFEST_DIR"), "/../../bpf-prebuilt"))
        .partitions(PARTITIONS)
        .fallback_on_error(false)
        .build()?;
    let config = IngestConfig::new(&cores[..]);
    let start = || {
        ThreadPerCoreRuntime::with_xdp(&config, &xdp_config, |partition| feeds.handler(partition))
    };
    let ingest = wire.receiver.enter(start)?;
    println!("CPUs {cores:?}: {}", ingest.ingest().mode());

    let begin = Instant::now();
    let sent = std::thread::scope(|scope| -> Result<Tally> {
        let sending = scope.spawn(|| send(&wire, &feeds));
        for number in 0..MOVES {
            let partition = number % PARTITIONS;
            let to = cores[(partition as usize + 1) % cores.len()];
            ingest.move_partition(partition, to)?;
        }
        sending.join().expect("the sender does not panic")
    })?;
    feeds.flush()?;

    let mut answer = database.answer()?;
    while counted(&answer)? < DATAGRAMS && begin.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(10));
        answer = database.answer()?;
    }
    // And no more than that: what is counted twice may come late.
    std::thread::sleep(Duration::from_millis(200));
    answer = database.answer()?;
    println!("{ANSWER}\n{}", pretty_format_batches(&answer)?);
    let stats = ingest.xdp_stats()?;
    println!("{stats:?}");
    let junk = DATAGRAMS / JUNK_EVERY;
    ensure!(stats.verdicts.dropped == junk, "{junk} of the datagrams were junk");
    ensure!(tally(&answer)? == sent, "the continuous query says {answer:?}, sent was {sent:?}");
    println!(
        "all {DATAGRAMS} datagrams of {SENDERS} senders in {PARTITIONS} partitions are counted \
         and summed as they were sent, {MOVES} moves and {junk} of junk among them, in {:.1?}",
        begin.elapsed()
    );
    Ok(())
}

fn counted(answer: &[arrow::array::RecordBatch]) -> Result<u64> {
    Ok(tally(answer)?.values().map(|(count, _)| *count as u64).sum())
}

/// A way into the database for each core.
struct Feeds {
    cores: Vec<u32>,
    feeds: Vec<Mutex<Feed>>,
    received: AtomicU64,
}

impl Feeds {
    /// Reads the value out of a datagram and pushes it with its partition, on the core
    /// that owns that.
    fn handler(self: &Arc<Self>, partition: u32) -> Handler {
        let feeds = self.clone();
        Box::new(move |datagram| {
            let value = datagram.payload.try_into().map(i64::from_be_bytes);
            let core = feeds.cores.iter().position(|core| *core == current_cpu()).unwrap_or(0);
            let mut feed = feeds.feeds[core].lock().expect("no handler panics");
            let added = value.map_err(anyhow::Error::from).and_then(|v| feed.add(partition, v));
            match added {
                Ok(()) => drop(feeds.received.fetch_add(1, Ordering::Relaxed)),
                Err(error) => eprintln!("partition {partition}: {error}"),
            }
        })
    }

    /// Pushes what is not a whole batch.
    fn flush(&self) -> Result<()> {
        let mut feeds = self.feeds.iter().map(|feed| feed.lock().expect("no handler panics"));
        feeds.try_for_each(|mut feed| feed.flush())
    }
}

/// Sends everything and says what it was, by partition.
fn send(wire: &TestNet, feeds: &Feeds) -> Result<Tally> {
    let senders =
        (0..SENDERS).map(|_| wire.sending_socket()).collect::<Result<Vec<UdpSocket>>>()?;
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
            ensure!(begin.elapsed() < PATIENCE, "datagram {number}: nothing arrives any more");
            std::thread::sleep(Duration::from_micros(20));
        }
    }
    Ok(tally)
}

fn destination() -> std::net::SocketAddr {
    TestNet::destination(9999)
}
