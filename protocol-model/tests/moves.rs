//! Explores moves of a partition, and checks that the search finds each mistake.

use protocol_model::explore::explore;
use protocol_model::moves::{Mistake, Moves};

/// The search needs about 1 GB for a million states.
const LIMIT: usize = 20_000_000;

fn check(name: &str, model: Moves) {
    match explore(&model, LIMIT) {
        Ok(explored) => println!("{name}: {explored}"),
        Err(run) => panic!("{name}: {run}"),
    }
}

#[test]
fn moves_with_xdp() {
    let [steered, _, _] = Moves::ways();
    check("XDP", steered);
}

#[test]
fn moves_with_a_selector() {
    let [_, selected, _] = Moves::ways();
    check("selector, other partition at the new owner", selected);
    check("selector, other partition at the old owner", Moves { other_owner: 0, ..selected });
}

#[test]
fn moves_with_classic_bpf() {
    let [_, _, classic] = Moves::ways();
    check("classic BPF", classic);
}

#[test]
fn mistakes_are_found() {
    for model in Mistake::all() {
        match explore(&model, LIMIT) {
            Ok(explored) => panic!("{:?} is not found: {explored}", model.mistake),
            Err(run) => println!("{:?}\n{run}\n", model.mistake),
        }
    }
}
