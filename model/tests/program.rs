//! Compares the BPF program, compiled for the host, with the model on generated packets.

use std::collections::BTreeMap;
use std::io::Write;
use std::thread;

use laminar_xdp::{Layer, XdpReason};
use verdict_model::host::Program;
use verdict_model::{Limit, Lists, Model, Packets, Reason, describe};

/// The number of generated packets. At least a thousandth of them must reach each row of the
/// verdict table.
const PACKETS: u64 = 10_000_000;
const PORT: u16 = 9999;
/// The number of packets after which all buckets are refilled. Refilling also empties the
/// host's table of sources, which has room for few sources.
const REFILL_INTERVAL: u64 = 250;

/// Returns one of sixteen models, which differ in ports, lists and limits.
fn model(which: u64) -> Model {
    // Some partitions have no owner.
    let owners = (0..61).map(|p| (p % 7 != 3).then_some(p % 5 * 40)).collect();
    let mut model = Model::new(PORT, owners);
    if which & 1 != 0 {
        model.ports.extend(PORT + 1..PORT + 16);
    }
    if which & 2 != 0 {
        let prefix = |address: &str, length| (address.parse().unwrap(), length);
        model.lists = Some(Lists {
            deny: vec![prefix("192.0.2.64", 29), prefix("fd00::ffff:192.0.2.0", 123)],
            allow: vec![prefix("192.0.2.0", 27), prefix("192.0.2.72", 32), prefix("fd00::", 90)],
        });
    }
    if which & 4 != 0 {
        model.limit = Some(Limit { interval: 1000, burst: 1 + which / 8 * 2 });
    }
    model
}

#[test]
fn program_and_model_agree_on_every_packet() {
    let threads = thread::available_parallelism().map_or(1, |threads| threads.get() as u64);
    let work = (0..threads).map(|thread| {
        thread::spawn(move || {
            let mut answers = BTreeMap::new();
            for which in 0..16 {
                compare(which, 16 * thread + which, PACKETS / threads / 16, &mut answers);
            }
            answers
        })
    });
    let mut answers = BTreeMap::new();
    for thread in work.collect::<Vec<_>>() {
        for (answer, count) in thread.join().expect("the program agrees with the model") {
            *answers.entry(answer).or_insert(0) += count;
        }
    }
    // Write to stderr, because the test harness hides the output of `println!` unless the test
    // fails.
    let text = format!("the program agrees with the model on {PACKETS} packets: {answers:?}");
    writeln!(std::io::stderr(), "{text}").expect("stderr");
    // The packets must reach every row of the verdict table.
    let reasons = XdpReason::ALL.iter().filter(|reason| reason.layers().contains(&Layer::Xdp));
    // Add one, because packets without a reason are an answer too.
    assert_eq!(answers.len(), reasons.count() + 1, "{answers:?}");
    assert!(answers.values().all(|count| *count > PACKETS / 1000), "{answers:?}");
}

fn compare(which: u64, seed: u64, packets: u64, answers: &mut BTreeMap<String, u64>) {
    let mut model = model(which);
    let mut program = Program::configured_as(&model, which.is_multiple_of(3));
    let mut random = Packets::new(seed, PORT);
    for number in 0..packets {
        // Copy the packet to a box of its exact length, so that memory checkers report a read
        // beyond the end of the packet.
        let frame: Box<[u8]> = random.next_frame().into();
        if number % REFILL_INTERVAL == 0 {
            model.refill_buckets();
            program.refill_buckets();
        }
        // In a pause of 900 ns, a bucket gains most of the content that one packet costs.
        model.now += if number % 20 == 0 { 900 } else { number % 7 };
        let expected = model.judge(&frame);
        let first = (number % 120) as usize;
        let length = frame.len() as u64;
        for (what, answer) in [
            ("in one buffer", program.judge(&frame, model.now)),
            ("split", program.judge_split(&frame, first, model.now)),
        ] {
            let (answer, bytes) = answer.map_or_else(|e| (Err(e), 0), |(a, b)| (Ok(a), b));
            let about = || {
                format!(
                    "packet {number} of seed {seed}, {what} (split point {first}), model {which}: \
                     the program (left) and the model (right) disagree\n{}",
                    describe(&frame)
                )
            };
            assert_eq!(answer, Ok(expected), "{}", about());
            let allowed = match (expected.reason, what) {
                (None, _) => [0, 0],
                // If the datagram ends in the first buffer, the program does not ask for the size
                // of the later buffers. The bytes of padding in those buffers are then not counted.
                (Some(reason), "split") if ends_with_datagram(reason) => {
                    [length, length.min(first as u64)]
                }
                _ => [length, length],
            };
            assert!(
                allowed.contains(&bytes),
                "the program counted {bytes} bytes, allowed are {allowed:?}; {}",
                about()
            );
        }
        *answers.entry(format!("{:?}", expected.reason)).or_insert(0) += 1;
    }
}

/// Returns whether the program needs only the end of the datagram, not the end of the packet, to
/// find this reason.
fn ends_with_datagram(reason: Reason) -> bool {
    !matches!(reason, Reason::Invalid | Reason::Fragment | Reason::Denied)
}
