//! Compares the program in the kernel with the model of the verdict table, on generated packets.
//! For each packet, both must choose the same verdict, counter and CPU.

use std::collections::BTreeMap;
use std::mem::offset_of;
use std::os::fd::OwnedFd;

use anyhow::{Result, bail, ensure};
use laminar_xdp::{IpNet, Layer, SourceLimit, SourceLists, XdpReason, XdpStats};
use laminar_xdp_prebuilt::abi;
use testbed::{TestNet, bpf, kernel};
use verdict_model::{Answer, Limit, Lists, Model, Packets, Reason, Verdict, describe};

use crate::support::{
    BASELINE, config, datagrams, load, note, online_cpus, program_of, targets,
    targets_with_features, tests,
};

tests! {
    Root:
        kernel_and_model_agree_on_verdict_counter_and_cpu;
}

const PORT: u16 = 9999;
/// The length of an Ethernet header, in bytes. The kernel's test run accepts no shorter frame.
const ETHERNET: usize = 14;
/// The burst of the source limit, in packets.
const BURST: u32 = 20;
/// The nanoseconds until a bucket gains one packet: 13 days, so no bucket refills during the test.
const INTERVAL: u64 = 1 << 50;
/// The number of packets between two reads of the counters. One read takes longer than one run of
/// the program on a packet.
const BATCH: usize = 200;

/// Generates a quarter of `datagrams()` packets. Skips the generated packets that are too short for
/// a test run.
fn kernel_and_model_agree_on_verdict_counter_and_cpu() -> Result<()> {
    let packets = datagrams() / 4;
    let runs = targets().iter().flat_map(|target| {
        let has_features = targets_with_features().any(|with| with == *target);
        let ways = [(0, false), (1, false), (1, true)];
        ways.into_iter()
            .filter(move |(_, guarded)| has_features || !guarded)
            .map(|(without, guarded)| (*target, without, guarded))
    });
    let each = packets / runs.clone().count() as u64;
    let mut answers = BTreeMap::new();
    for (seed, (target, without, guarded)) in runs.enumerate() {
        compare((target, without, guarded), seed as u64, each, &mut answers)?;
    }
    let run: u64 = answers.values().sum();
    note(format!("the kernel agrees with the model on {run} packets; by counter: {answers:?}"));
    let reasons = XdpReason::ALL.iter().filter(|reason| reason.layers().contains(&Layer::Xdp));
    // Add one for the answer without a reason.
    let tried = packets < 10_000 || answers.len() == reasons.count() + 1;
    ensure!(tried, "the packets do not reach every counter: {answers:?}");
    Ok(())
}

/// Compares one target with the model. The queue of one of the two CPUs is removed, so that the
/// verdict shows which CPU the program chose. If `guarded` is set, the program has several ports,
/// lists and limits. Its buckets do not refill during the test, so the result for a packet does not
/// depend on the time of its run.
fn compare(
    (target, without, guarded): (&str, usize, bool),
    seed: u64,
    packets: u64,
    answers: &mut BTreeMap<Option<Reason>, u64>,
) -> Result<()> {
    let (net, cpus) = (TestNet::new()?, &online_cpus()[..2]);
    let mut config = config().port(PORT).partitions(64).force_target(target);
    let more_ports: Vec<_> = (PORT + 1..PORT + 16).collect();
    let lists = SourceLists::new()
        .deny(["192.0.2.64/29".parse()?, "fd00::ffff:192.0.2.0/123".parse()?])
        .allow(["192.0.2.72/32".parse()?, "fd00::/90".parse()?]);
    if guarded {
        let limit = SourceLimit::per_second(1).burst(BURST);
        config = config.more_ports(more_ports.clone()).source_lists(lists.clone());
        config = config.source_limit(limit);
    }
    let loader = load(&net, &config.build()?, cpus)?;
    let program = program_of(&loader)?;
    let mut owners: Vec<_> = (0..64).map(|partition| Some(cpus[partition % 2])).collect();
    // Keep both queues for the baseline target, because its program loses packets that it redirects
    // to a CPU without a queue.
    if target != BASELINE {
        bpf::delete_from_map(&program, c"cpu_map", cpus[without])?;
        owners.iter_mut().for_each(|owner| *owner = owner.filter(|cpu| *cpu != cpus[without]));
    }
    let mut model = Model::new(PORT, owners);
    if guarded {
        let list =
            |prefixes: &[IpNet]| prefixes.iter().map(|p| (p.addr(), p.prefix_len())).collect();
        model.ports.extend(more_ports);
        model.lists = Some(Lists { deny: list(&lists.deny), allow: list(&lists.allow) });
        model.limit = Some(Limit { interval: INTERVAL, burst: BURST.into() });
        slow_down(&program, &model.ports)?;
    }
    let splits = target == "linux-5.18" && kernel::test_run_splits_packets();
    let mut random = Packets::new(seed, PORT);
    // Runs the program on the packets. Returns whether the counters changed as in the model.
    let run = |frames: &[(u64, Vec<u8>, Answer)]| -> Result<bool> {
        let (before, mut expected) = (loader.stats()?, BTreeMap::new());
        for (number, frame, Answer { verdict, reason }) in frames {
            let first = if splits { *number as usize % 120 } else { frame.len() };
            let run = match splits {
                true => bpf::run_split(&program, frame, first.min(frame.len()))?,
                false => bpf::run(&program, frame, 1)?,
            };
            let number_of = match verdict {
                Verdict::Drop => 1,
                Verdict::Pass => 2,
                Verdict::Redirect(_) => 4,
            };
            ensure!(
                run.verdict == number_of,
                "{target}, packet {number} of seed {seed}, {first} bytes in the first buffer: \
                 the kernel answers {}, the model {verdict:?} ({reason:?})\n{}",
                run.verdict,
                describe(frame)
            );
            if let Some(reason) = reason {
                *expected.entry(counter_of(*reason)).or_insert(0) += 1;
            }
        }
        Ok(moved(&before, &loader.stats()?) == expected)
    };
    let mut batch = Vec::new();
    for number in 0..packets {
        let frame = random.next_frame();
        if frame.len() >= ETHERNET {
            let answer = model.judge(frame);
            *answers.entry(answer.reason).or_insert(0) += 1;
            batch.push((number, frame.to_vec(), answer));
        }
        if (batch.len() == BATCH || number + 1 == packets) && !run(&batch)? {
            // Run the packets again one by one to find the packet whose counter is wrong. Do not do
            // this with limits: the first run took packets from the buckets, so the verdicts would
            // differ.
            for one in batch.iter().filter(|_| !guarded) {
                let (number, frame, answer) = one;
                let what = format!("packet {number} of seed {seed}, in the model {answer:?}");
                let agrees = run(std::slice::from_ref(one))?;
                ensure!(agrees, "{target}: the wrong counter changed: {what}\n{}", describe(frame));
            }
            bail!(
                "{target}, seed {seed}: the counters are wrong at packet {number} or shortly before"
            );
        }
        if batch.len() == BATCH {
            batch.clear();
        }
    }
    Ok(())
}

/// Sets the interval of the limit to `INTERVAL`, which is longer than any configuration can set.
fn slow_down(program: &OwnedFd, ports: &[u16]) -> Result<()> {
    let mut controls = [0; size_of::<abi::laminar_controls>()];
    for (to, port) in controls.chunks_mut(2).zip(ports) {
        to.copy_from_slice(&port.to_be_bytes());
    }
    for (at, value) in [
        (offset_of!(abi::laminar_controls, interval), INTERVAL),
        (offset_of!(abi::laminar_controls, tolerance), INTERVAL * u64::from(BURST - 1)),
    ] {
        controls[at..at + 8].copy_from_slice(&value.to_ne_bytes());
    }
    bpf::write_map(program, c"laminar.data", &controls)
}

/// The counters that differ between `before` and `after`, each with its difference.
fn moved(before: &XdpStats, after: &XdpStats) -> BTreeMap<XdpReason, u64> {
    let moved = *after - *before;
    let by_reason = XdpReason::ALL.iter().map(|reason| (*reason, moved.get(*reason)));
    by_reason.filter(|(_, by)| *by > 0).collect()
}

/// The program's counter for a reason of the model.
fn counter_of(reason: Reason) -> XdpReason {
    match reason {
        Reason::Invalid => XdpReason::Invalid,
        Reason::Fragment => XdpReason::PassedFragment,
        Reason::NoQueue => XdpReason::PassedNoQueue,
        Reason::Short => XdpReason::DroppedShort,
        Reason::Magic => XdpReason::DroppedMagic,
        Reason::Length => XdpReason::DroppedLength,
        Reason::Denied => XdpReason::DroppedDenied,
        Reason::Rate => XdpReason::DroppedRate,
        Reason::Redirected => XdpReason::Redirected,
    }
}
