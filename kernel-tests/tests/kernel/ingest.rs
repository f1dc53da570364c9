//! The promise: each partition's datagrams at the thread that owns it, once, and in order
//! for each sender, in every mode and while partitions move.

use anyhow::{Context, Result, ensure};
use testbed::TestNet;

use crate::runtime::ThreadPerCoreRuntime;
use crate::support::{Arrivals, ObjectSet, PARTITIONS, Stream, Way, tests, two_cpus, ways};

tests! {
    Namespaces:
        in_order_in_every_mode,
        in_order_while_partitions_move;
}

/// Fails unless the counters say that everything that was sent went to a socket and
/// nothing overflowed.
fn check_counters(way: Way, runtime: &ThreadPerCoreRuntime, sent: u64) -> Result<()> {
    let stats = runtime.xdp_stats()?;
    let text = format!("{way:?}: {stats:?}");
    assert_eq!((stats.misplaced, stats.verdicts.dropped), (0, 0), "{text}");
    match runtime.ingest().classic_reason() {
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

fn in_order_in_every_mode() -> Result<()> {
    let objects = ObjectSet::without_sockets_object()?;
    for (way, datagrams) in ways() {
        let (net, log) = (TestNet::new()?, Arrivals::new()?);
        let runtime = way.start(&net, &objects, &log)?;
        let mut stream = Stream::new(&net, &log)?;
        stream.send(datagrams)?;
        stream.wait_for_all()?;
        stream.check().with_context(|| format!("{way:?}"))?;
        for partition in 0..PARTITIONS {
            let owner = two_cpus()[partition % 2];
            assert_eq!(log.cpus(partition), 1 << owner, "{way:?}, partition {partition}");
        }
        check_counters(way, &runtime, stream.sent)?;
    }
    Ok(())
}

/// How often something happens while a stream goes on: 100 times in a million datagrams.
pub fn times(datagrams: u64) -> u64 {
    (datagrams / 10_000).max(5)
}

fn in_order_while_partitions_move() -> Result<()> {
    let objects = ObjectSet::without_sockets_object()?;
    for (way, datagrams) in ways() {
        let (net, log) = (TestNet::new()?, Arrivals::new()?);
        let runtime = way.start(&net, &objects, &log)?;
        let mut stream = Stream::new(&net, &log)?;
        stream.send_while(datagrams, || {
            for round in 0..times(datagrams) as usize {
                // Away from where it starts, and in the next round back.
                let partition = round / 2 * 29 % PARTITIONS;
                let core = two_cpus()[(partition + 1 + round) % 2];
                runtime.move_partition(partition as u32, core)?;
                ensure!(runtime.ingest().owner(partition as u32) == Some(core));
            }
            Ok(())
        })?;
        stream.check().with_context(|| format!("{way:?}"))?;
        check_counters(way, &runtime, stream.sent)?;
    }
    Ok(())
}
