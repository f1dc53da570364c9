//! The C program, compiled for the host, gives the model's answer on every packet.

use std::collections::BTreeMap;
use std::io::Write;
use std::thread;

use verdict_model::host::Program;
use verdict_model::{Limit, Lists, Model, Packets, Reason, describe};

/// Enough for every row of the table to be met often, at both byte orders of everything.
const PACKETS: u64 = 10_000_000;
const PORT: u16 = 9999;
/// Packets after which everybody's bucket is full again: the program's table is small.
const MEMORY: u64 = 250;

/// One of sixteen: with several ports, lists, limits or not.
fn model(which: u64) -> Model {
    // Some partitions belong to nobody.
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
fn the_program_answers_as_the_model_does() {
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
    // Not by a macro, which would show it only after a failure.
    let text = format!("the program agrees with the model on {PACKETS} packets: {answers:?}");
    writeln!(std::io::stderr(), "{text}").expect("stderr");
    // Otherwise the packets are none that try anything.
    assert_eq!(answers.len(), 10, "{answers:?}");
    assert!(answers.values().all(|count| *count > PACKETS / 1000), "{answers:?}");
}

fn compare(which: u64, seed: u64, packets: u64, answers: &mut BTreeMap<String, u64>) {
    let mut model = model(which);
    let mut program = Program::like(&model, which.is_multiple_of(3));
    let mut random = Packets::new(seed, PORT);
    for number in 0..packets {
        // Exactly as long as the packet, so that tools that watch memory see what reads on.
        let frame: Box<[u8]> = random.next_frame().into();
        if number % MEMORY == 0 {
            model.forget();
            program.forget();
        }
        // Now and then nothing happens for a while.
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
                    "packet {number} of seed {seed}, {what} (at {first}), model {which}: program, \
                     model\n{}",
                    describe(&frame)
                )
            };
            assert_eq!(answer, Ok(expected), "{}", about());
            let allowed = match (expected.reason, what) {
                (None, _) => [0, 0],
                // What lies behind a whole datagram is padding, and need not be counted.
                (Some(reason), "split") if ends_with_datagram(reason) => {
                    [length, length.min(first as u64)]
                }
                _ => [length, length],
            };
            assert!(allowed.contains(&bytes), "{bytes} bytes counted of {allowed:?}; {}", about());
        }
        *answers.entry(format!("{:?}", expected.reason)).or_insert(0) += 1;
    }
}

/// Whether the program looks no further than to the datagram's end.
fn ends_with_datagram(reason: Reason) -> bool {
    !matches!(reason, Reason::Invalid | Reason::Fragment | Reason::Denied)
}
