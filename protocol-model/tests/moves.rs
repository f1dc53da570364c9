//! Explores moves of a partition, and checks that the search finds each mistake.

use protocol_model::explore::explore;
use protocol_model::moves::{Mistake, Moves};

/// The search needs about 1 GB for two million states.
const LIMIT: usize = 12_000_000;

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
    let calls = Moves { failures: 0, drops: 0, timeouts: 1, ..steered };
    check("XDP, calls without work", calls);
}

#[test]
fn moves_with_a_selector() {
    let [_, selected, _] = Moves::ways();
    let once = Moves { moves: 1, ..selected };
    check("selector, two moves", Moves { datagrams: [2, 0], ..selected });
    check("selector, other partition at the new owner", once);
    check("selector, other partition at the old owner", Moves { other_owner: 0, ..once });
}

#[test]
fn moves_with_classic_bpf() {
    let [_, _, classic] = Moves::ways();
    check("classic BPF, a failed wait", Moves { drops: 0, ..classic });
    check("classic BPF, a dropped receiver", Moves { failures: 0, ..classic });
    let calls = Moves { failures: 0, drops: 0, timeouts: 1, ..classic };
    check("classic BPF, calls without work", calls);
}

/// Takes some minutes and 8 GB.
#[test]
#[ignore = "`make nightly` runs it"]
fn moves_with_large_bounds() {
    let [steered, selected, classic] = Moves::ways();
    check("XDP, large bounds", Moves { datagrams: [3, 0], ..steered });
    check("selector, large bounds", selected);
    check("classic BPF, large bounds", classic);
}

#[test]
fn mistakes_are_found() {
    for model in Mistake::all() {
        match explore(&model, LIMIT) {
            Ok(explored) => panic!("{:?} is not found: {explored}", model.mistake),
            Err(run) => println!("{:?}: {run}\n", model.mistake),
        }
    }
}
