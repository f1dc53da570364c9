//! Every datagram reaches the CPU that owns its partition exactly once, and the datagrams of each
//! sender stay in order. The tests check both in every mode and while partitions move.

use anyhow::{Context, Result, ensure};
use testbed::TestNet;

use crate::runtime::ThreadPerCoreRuntime;
use crate::support::{Arrivals, ObjectSet, PARTITIONS, Stream, Way, tests, two_cpus, ways};

tests! {
    Namespaces:
        datagrams_arrive_once_and_in_order_in_every_mode,
        datagrams_arrive_once_and_in_order_while_partitions_move;
}

fn datagrams_arrive_once_and_in_order_in_every_mode() -> Result<()> {
    let objects = ObjectSet::without_sockets_object()?;
    for (way, datagrams) in ways() {
        let (net, arrivals) = (TestNet::new()?, Arrivals::new()?);
        let runtime = way.start(&net, &objects, &arrivals)?;
        let mut stream = Stream::new(&net, &arrivals)?;
        stream.send(datagrams)?;
        stream.wait_for_all()?;
        stream.check().with_context(|| format!("{way:?}"))?;
        for partition in 0..PARTITIONS {
            let owner = two_cpus()[partition % 2];
            assert_eq!(arrivals.cpus(partition), 1 << owner, "{way:?}, partition {partition}");
        }
        check_counters(way, &runtime, stream.sent)?;
    }
    Ok(())
}

fn datagrams_arrive_once_and_in_order_while_partitions_move() -> Result<()> {
    let objects = ObjectSet::without_sockets_object()?;
    for (way, datagrams) in ways() {
        let (net, arrivals) = (TestNet::new()?, Arrivals::new()?);
        let runtime = way.start(&net, &objects, &arrivals)?;
        let mut stream = Stream::new(&net, &arrivals)?;
        // With a million datagrams, make 100 moves.
        let moves = (datagrams / 10_000).max(5) as usize;
        stream.send_while(datagrams, || {
            for round in 0..moves {
                // Every even round moves a partition away from its first owner. The next round
                // moves it back.
                let partition = round / 2 * 29 % PARTITIONS;
                let cpu = two_cpus()[(partition + 1 + round) % 2];
                runtime.move_partition(partition as u32, cpu)?;
                ensure!(runtime.ingest().owner(partition as u32) == Some(cpu));
            }
            Ok(())
        })?;
        stream.check().with_context(|| format!("{way:?}"))?;
        check_counters(way, &runtime, stream.sent)?;
    }
    Ok(())
}

/// Fails unless the counters show that every datagram went to the right socket and that no
/// socket overflowed.
fn check_counters(way: Way, runtime: &ThreadPerCoreRuntime, sent: u64) -> Result<()> {
    let stats = runtime.xdp_stats()?;
    let text = format!("{way:?}: {stats:?}");
    assert_eq!((stats.misplaced, stats.verdicts.dropped), (0, 0), "{text}");
    match runtime.ingest().classic_bpf_reason() {
        None => assert_eq!((stats.accepted, stats.overflowed), (Some(sent), Some(0)), "{text}"),
        Some(_) => assert_eq!((stats.accepted, stats.overflowed), (None, None), "{text}"),
    }
    match way {
        Way::Xdp(_) | Way::XdpAndClassic => assert_eq!(stats.verdicts.redirected, sent, "{text}"),
        Way::Sockets | Way::FilterOnly => assert_eq!(stats.verdicts.passed, sent, "{text}"),
        Way::Classic => {}
    }
    Ok(())
}
