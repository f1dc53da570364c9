//! Receivers in tokio tasks. tokio polls descriptors edge-triggered, so several datagrams may cause
//! only one wake-up.

use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, ensure};
use laminar_xdp::{Ingest, IngestConfig};
use testbed::TestNet;
use testbed::frame::datagram;

use crate::runtime::Handler;
use crate::support::{
    Arrivals, ObjectSet, PARTITIONS, PORT, Stream, Way, datagrams, tests, two_cpus, wait_until,
};
use crate::tokio_tasks::ReceiverTasks;

tests! {
    Namespaces:
        tokio_handles_all_datagrams_queued_before_it_started,
        tokio_gets_every_datagram_once_and_in_order_while_a_partition_moves,
        tokio_task_that_panicked_is_reported_and_can_be_replaced;
}

/// The ways that do not use XDP. `Way::Classic` needs no privileges.
fn socket_ways() -> impl Iterator<Item = Way> {
    [Way::Sockets, Way::Classic].into_iter().filter(|way| way.is_available())
}

fn open(net: &TestNet, way: Way) -> Result<Ingest> {
    way.open(&net.receiver, &IngestConfig::new(two_cpus()), &ObjectSet::new()?)
}

/// Starts one task for each CPU. The tasks record the datagrams that they receive.
fn start(ingest: &Ingest, arrivals: &Arrivals) -> Result<ReceiverTasks> {
    let handlers = (0..PARTITIONS as u32).map(|p| Mutex::new(arrivals.handler(p)));
    let handlers: Arc<Vec<Mutex<Handler>>> = Arc::new(handlers.collect());
    Ok(ReceiverTasks::start(ingest, move |datagram| {
        handlers[datagram.partition as usize].lock().expect("no panic")(datagram);
    })?)
}

/// All datagrams are in the sockets before the tasks start, so tokio wakes each task only once. A
/// task must therefore receive all its datagrams after one wake-up.
fn tokio_handles_all_datagrams_queued_before_it_started() -> Result<()> {
    for way in socket_ways() {
        let (net, arrivals) = (TestNet::new()?, Arrivals::new()?);
        let ingest = open(&net, way)?;
        let mut stream = Stream::new(&net, &arrivals)?;
        // Send several batches for each receiver. The ring of a veth device holds 256 packets, so
        // send fewer.
        (0..200).try_for_each(|_| stream.send_one())?;
        let tasks = start(&ingest, &arrivals)?;
        stream.wait_for_all().with_context(|| format!("{way:?}"))?;
        tasks.stop()?;
        stream.check().with_context(|| format!("{way:?}"))?;
    }
    Ok(())
}

/// The sender sends a batch only after the previous batch has arrived completely. If a task leaves
/// a datagram in its socket, no later batch wakes that task, and the test fails.
fn tokio_gets_every_datagram_once_and_in_order_while_a_partition_moves() -> Result<()> {
    const PARTITION: u32 = 0;
    const MOVES: u64 = 20;
    const BATCH: u64 = 200;
    let total = (datagrams() / 10).max(1000);
    for way in socket_ways() {
        let (net, arrivals) = (TestNet::new()?, Arrivals::new()?);
        let ingest = open(&net, way)?;
        let tasks = start(&ingest, &arrivals)?;
        let mut stream = Stream::new(&net, &arrivals)?;
        let cpus = two_cpus();
        let move_back_and_forth = || -> Result<()> {
            for round in 1..=MOVES {
                // Spread the moves over the whole stream.
                let due = total * round / (MOVES + 1);
                let arrived = wait_until(|| Ok(arrivals.received() >= due))?;
                let received = arrivals.received();
                ensure!(arrived, "move {round}: {received} of {due} datagrams arrived");
                let cpu = cpus[round as usize % 2];
                ingest.move_partition(PARTITION, cpu)?;
                ensure!(ingest.owner(PARTITION) == Some(cpu));
            }
            Ok(())
        };
        std::thread::scope(|scope| -> Result<()> {
            let moving = scope.spawn(move_back_and_forth);
            while stream.sent < total || !moving.is_finished() {
                stream.send(BATCH)?;
                stream.wait_for_all()?;
            }
            moving.join().expect("no panic")
        })
        .with_context(|| format!("{way:?}"))?;
        tasks.stop()?;
        stream.check().with_context(|| format!("{way:?}"))?;
    }
    Ok(())
}

/// New tasks continue after the datagram at which the handler panicked. The new tasks must continue
/// even if no further datagram arrives to wake them.
fn tokio_task_that_panicked_is_reported_and_can_be_replaced() -> Result<()> {
    let (net, arrivals) = (TestNet::new()?, Arrivals::new()?);
    let ingest = open(&net, Way::Classic)?;
    let sender = net.sending_socket()?;
    let send = |key: u32| sender.send_to(&datagram(key, &[0; 9]), TestNet::destination(PORT));
    // All these datagrams belong to the first CPU, and they fit into one batch.
    (0..20).try_for_each(|round| send(2 * round).map(drop))?;
    let tasks = ReceiverTasks::start(&ingest, |_| panic!("the handler panics"))?;
    ensure!(wait_until(|| Ok(tasks.has_failed()))?, "the task is not reported as failed");
    let error = tasks.stop().expect_err("the handler panicked");
    ensure!(error.with_causes().to_string().contains("panic"), "{}", error.with_causes());
    let tasks = start(&ingest, &arrivals)?;
    ensure!(wait_until(|| Ok(arrivals.received() == 19))?, "{} arrived", arrivals.received());
    Ok(tasks.stop()?)
}
