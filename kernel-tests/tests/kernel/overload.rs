//! Moves away from a CPU whose handler is too slow for its datagrams.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use laminar_xdp::IngestConfig;
use testbed::TestNet;
use testbed::frame::datagram;

use crate::runtime::{Handler, ThreadPerCoreRuntime};
use crate::support::{
    ObjectSet, PORT, Way, datagrams, steering_modes, tests, two_cpus, wait_until,
};

tests! {
    Root:
        half_of_the_partitions_leave_an_overloaded_cpu;
}

/// How long the handler takes for each datagram, so a CPU can handle at most 4,000 a second.
const HANDLER: Duration = Duration::from_micros(250);
/// The partitions of the overloaded CPU. Together they get 20,000 datagrams a second. The first
/// half moves.
const BUSY: [u32; 4] = [0, 2, 4, 6];
/// The partitions of the other CPU. Together they get 400 datagrams a second.
const CALM: [u32; 4] = [1, 3, 5, 7];
/// How long one move may take.
const MOVE: Duration = Duration::from_secs(2);
/// The longest time that may pass between two datagrams of the other CPU's partitions.
const GAP: Duration = Duration::from_millis(1500);

/// For each partition, the number in each handled datagram and when it was handled.
type Handled = Arc<Mutex<BTreeMap<u32, Vec<(u32, Instant)>>>>;

fn half_of_the_partitions_leave_an_overloaded_cpu() -> Result<()> {
    if datagrams() < 10_000 {
        // An emulated machine is too slow to send this many datagrams.
        return Ok(());
    }
    let objects = ObjectSet::new()?;
    let ways = [Way::Classic, Way::Sockets].into_iter().filter(|way| way.is_available());
    for way in ways.chain(steering_modes().iter().map(|mode| Way::Xdp(*mode))) {
        move_under_load(way, &objects).with_context(|| format!("{way:?}"))?;
    }
    Ok(())
}

fn move_under_load(way: Way, objects: &ObjectSet) -> Result<()> {
    let (net, handled) = (TestNet::new()?, Handled::default());
    let handler = |_| -> Handler {
        let handled = handled.clone();
        Box::new(move |datagram| {
            std::thread::sleep(HANDLER);
            let number = u32::from_be_bytes(datagram.payload.try_into().expect("four bytes"));
            let mut handled = handled.lock().unwrap();
            handled.entry(datagram.partition).or_default().push((number, Instant::now()));
        })
    };
    let (ingest, config) = (IngestConfig::new(two_cpus()), way.config(objects).build()?);
    let runtime = net.receiver.enter(|| {
        way.restrict();
        ThreadPerCoreRuntime::with_xdp(&ingest, &config, handler)
    })?;
    let [_, calm_cpu] = two_cpus();
    let is_done = AtomicBool::new(false);
    let sent = std::thread::scope(|scope| -> Result<_> {
        let sending = scope.spawn(|| send(&net, &is_done));
        // Until the receive buffer of the overloaded CPU is full.
        std::thread::sleep(Duration::from_millis(1500));
        let moved = BUSY[..2].iter().try_for_each(|partition| -> Result<()> {
            let begin = Instant::now();
            runtime.move_partition(*partition, calm_cpu)?;
            let took = begin.elapsed();
            eprintln!("{way:?}: partition {partition} moved in {took:?}");
            ensure!(took < MOVE, "the move of partition {partition} took {took:?}");
            Ok(())
        });
        is_done.store(true, Ordering::Release);
        let sent = sending.join().expect("no panic")?;
        moved?;
        Ok(sent)
    })?;
    let ended = Instant::now();
    let of = |partition: &u32| handled.lock().unwrap().get(partition).cloned().unwrap_or_default();
    let total = || handled.lock().unwrap().values().map(Vec::len).sum::<usize>() as u64;
    let lost = || -> Result<u64> {
        let stats = runtime.xdp_stats()?;
        // Classic BPF counts a full buffer as `dropped_unsorted`.
        let overflowed = stats.overflowed.unwrap_or(stats.verdicts.dropped_unsorted);
        Ok(overflowed + stats.dropped_handoff + stats.dropped_held)
    };
    let all = u64::from(sent.values().sum::<u32>());
    ensure!(
        wait_until(|| Ok(total() + lost()? >= all))?,
        "{} handled and {} counted as lost of {all}",
        total(),
        lost()?
    );
    ensure!(total() + lost()? == all, "{} handled, {} lost of {all}", total(), lost()?);
    ensure!(lost()? > 0, "the CPU was not overloaded");
    for partition in BUSY.iter().chain(&CALM) {
        let numbers: Vec<_> = of(partition).iter().map(|(number, _)| *number).collect();
        ensure!(numbers.is_sorted_by(|a, b| a < b), "partition {partition} is out of order");
    }
    for partition in &CALM {
        let times: Vec<_> = of(partition).iter().map(|(_, time)| *time).collect();
        let times = times.into_iter().filter(|time| *time < ended).collect::<Vec<_>>();
        let gap = times.windows(2).map(|pair| pair[1] - pair[0]).max().context("none arrived")?;
        ensure!(gap < GAP, "partition {partition} waited for {gap:?}");
    }
    Ok(())
}

/// Sends numbered datagrams until `is_done`. Returns how many were sent to each partition.
fn send(net: &TestNet, is_done: &AtomicBool) -> Result<BTreeMap<u32, u32>> {
    let socket = net.sending_socket()?;
    let mut sent = BTreeMap::<u32, u32>::new();
    let mut send = |partition: u32| -> Result<()> {
        let number = sent.entry(partition).or_default();
        let bytes = datagram(partition, &number.to_be_bytes());
        socket.send_to(&bytes, TestNet::destination(PORT))?;
        *number += 1;
        Ok(())
    };
    let begin = Instant::now();
    // Each round stands for 10 ms.
    for round in 1.. {
        for _ in 0..50 {
            BUSY.into_iter().try_for_each(&mut send)?;
        }
        CALM.into_iter().try_for_each(&mut send)?;
        if is_done.load(Ordering::Acquire) || round > 3000 {
            break;
        }
        let next = begin + Duration::from_millis(10) * round;
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    Ok(sent)
}
