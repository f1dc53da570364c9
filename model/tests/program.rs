//! The C program, compiled for the host, gives the model's answer on every packet.

use std::collections::BTreeMap;
use std::io::Write;
use std::thread;

use verdict_model::host::Program;
use verdict_model::{Model, Packets, describe};

/// Enough for every row of the table to be met often, at both byte orders of everything.
const PACKETS: u64 = 10_000_000;
const PORT: u16 = 9999;

fn model() -> Model {
    // Some partitions belong to nobody.
    let owners = (0..61).map(|p| (p % 7 != 3).then_some(p % 5 * 40)).collect();
    Model { port: PORT, owners }
}

#[test]
fn the_program_answers_as_the_model_does() {
    let threads = thread::available_parallelism().map_or(1, |threads| threads.get() as u64);
    let work = (0..threads).map(|seed| thread::spawn(move || compare(seed, PACKETS / threads)));
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
    assert_eq!(answers.len(), 8, "{answers:?}");
    assert!(answers.values().all(|count| *count > PACKETS / 1000), "{answers:?}");
}

fn compare(seed: u64, packets: u64) -> BTreeMap<String, u64> {
    let model = model();
    let program = Program::like(&model);
    let mut answers = BTreeMap::new();
    let mut random = Packets::new(seed, PORT);
    for number in 0..packets {
        // Exactly as long as the packet, so that tools that watch memory see what reads on.
        let frame: Box<[u8]> = random.next_frame().into();
        let expected = Ok(model.judge(&frame));
        let first = (number % 120) as usize;
        for (what, answer) in [
            ("in one buffer", program.judge(&frame)),
            ("split", program.judge_split(&frame, first)),
        ] {
            assert_eq!(
                answer,
                expected,
                "packet {number} of seed {seed}, {what} (at {first}): program, model\n{}",
                describe(&frame)
            );
        }
        let reason = expected.map(|answer| answer.reason);
        *answers.entry(format!("{reason:?}")).or_insert(0) += 1;
    }
    answers
}
