//! The real program against the model of the verdict table, on packets that try it: the
//! verdict, the counter, and the CPU.

use std::collections::BTreeMap;

use anyhow::{Result, bail, ensure};
use laminar_xdp::XdpStats;
use testbed::{Wire, bpf, kernel};
use verdict_model::{Answer, Model, Packets, Reason, Verdict, describe};

use crate::stream::datagrams;
use crate::support::{BASELINE, config, cores, load, note, targets, tests};

tests! { the_kernel_answers_as_the_model_does }

const PORT: u16 = 9999;
/// A shorter frame is none that a test run takes.
const ETHERNET: usize = 14;
/// Packets between two looks at the counters.
const BATCH: usize = 200;

/// 250,000 packets where a stream has a million datagrams; some are too short to be run.
fn the_kernel_answers_as_the_model_does() -> Result<()> {
    let packets = datagrams() / 4;
    let runs = targets().iter().flat_map(|target| [(*target, 0), (*target, 1)]);
    let each = packets / runs.clone().count() as u64;
    let mut answers = BTreeMap::new();
    for (seed, (target, without)) in runs.enumerate() {
        compare(target, without, seed as u64, each, &mut answers)?;
    }
    let run: u64 = answers.values().sum();
    note(format!("the kernel agrees with the model on {run} packets; by counter: {answers:?}"));
    let tried = packets < 10_000 || answers.len() == 8;
    ensure!(tried, "these packets do not try everything: {answers:?}");
    Ok(())
}

/// The queue of one of two CPUs is taken away, so that the verdict tells which of them was
/// chosen.
fn compare(
    target: &str,
    without: usize,
    seed: u64,
    packets: u64,
    answers: &mut BTreeMap<Option<Reason>, u64>,
) -> Result<()> {
    let (wire, cores) = (Wire::new()?, &cores()[..2]);
    let config = config().port(PORT).partitions(64).force_target(target).build()?;
    let loader = load(&wire, &config, cores)?;
    let program = bpf::program_by_id(loader.program_id()?)?;
    let mut owners: Vec<_> = (0..64).map(|partition| Some(cores[partition % 2])).collect();
    // Where a redirect to an empty slot loses the packet, both keep their queues.
    if target != BASELINE {
        bpf::delete_from_map(&program, c"cpu_map", cores[without])?;
        owners.iter_mut().for_each(|owner| *owner = owner.filter(|cpu| *cpu != cores[without]));
    }
    let model = Model { port: PORT, owners };
    let splits = target == "linux-5.18" && kernel::test_run_splits_packets();
    let mut random = Packets::new(seed, PORT);
    // Runs some packets and says whether the counters moved as the model has it.
    let run = |frames: &[(u64, Vec<u8>)]| -> Result<bool> {
        let (before, mut expected) = (loader.stats()?, BTreeMap::new());
        for (number, frame) in frames {
            let Answer { verdict, reason } = model.judge(frame);
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
                *expected.entry(reason).or_insert(0) += 1;
            }
        }
        Ok(moved(&before, &loader.stats()?) == expected)
    };
    let mut batch = Vec::new();
    for number in 0..packets {
        let frame = random.next_frame();
        if frame.len() >= ETHERNET {
            *answers.entry(model.judge(frame).reason).or_insert(0) += 1;
            batch.push((number, frame.to_vec()));
        }
        // Reading the counters takes longer than running a packet.
        if (batch.len() == BATCH || number + 1 == packets) && !run(&std::mem::take(&mut batch))? {
            let mut again = Packets::new(seed, PORT);
            for number in 0..=number {
                let frame = again.next_frame().to_vec();
                let reason = model.judge(&frame).reason;
                let right = frame.len() < ETHERNET || run(&[(number, frame.clone())])?;
                let what = format!("packet {number} of seed {seed}, in the model {reason:?}");
                ensure!(right, "{target}: another counter moved: {what}\n{}", describe(&frame));
            }
            bail!("{target}, seed {seed}: the counters are wrong until packet {number}");
        }
    }
    Ok(())
}

/// By how much each counter moved, those that did.
fn moved(before: &XdpStats, after: &XdpStats) -> BTreeMap<Reason, u64> {
    let by = |read: fn(&XdpStats) -> u64| read(after) - read(before);
    let reasons = [
        (Reason::Invalid, by(|s| s.invalid)),
        (Reason::Fragment, by(|s| s.passed_fragment)),
        (Reason::NoQueue, by(|s| s.passed_no_queue)),
        (Reason::Short, by(|s| s.dropped_short)),
        (Reason::Magic, by(|s| s.dropped_magic)),
        (Reason::Length, by(|s| s.dropped_length)),
        (Reason::Redirected, by(|s| s.redirected)),
    ];
    reasons.into_iter().filter(|(_, by)| *by > 0).collect()
}
