//! Explores the hand-over, and checks that the search finds each mistake.

use protocol_model::explore::explore;
use protocol_model::handover::{HandOver, Mistake};

/// The search needs about 1 GB for two million states.
const LIMIT: usize = 20_000_000;

fn check(name: &str, model: HandOver) {
    match explore(&model, LIMIT) {
        Ok(explored) => println!("{name}: {explored}"),
        Err(run) => panic!("{name}: {run}"),
    }
}

#[test]
fn one_successor() {
    let model = HandOver { second: false, kills: 2, stops: 2, failures: 2, ..HandOver::default() };
    check("one successor", model);
}

#[test]
fn programs_that_netlink_attached() {
    let model = HandOver { second: false, link: false, foreign: 1, ..HandOver::default() };
    check("netlink, another tool", model);
}

#[test]
fn two_successors() {
    check("two successors", HandOver { datagrams: 1, stops: 0, ..HandOver::default() });
}

/// Takes a minute and 4 GB.
#[test]
#[ignore = "`make nightly` runs it"]
fn two_successors_with_all_bounds() {
    check("two successors, all bounds", HandOver::default());
}

#[test]
fn mistakes_are_found() {
    for mistake in Mistake::ALL {
        // Some mistakes show only when all states are known, so the bounds are small.
        let model = HandOver { datagrams: 1, stops: 0, ..HandOver::default() };
        let model = HandOver { mistake: Some(mistake), ..model };
        let model = match mistake {
            // Only a program of another tool shows this mistake: other processes have no lock.
            Mistake::ReplacedWithoutExpecting => HandOver { foreign: 1, link: false, ..model },
            _ => model,
        };
        match explore(&model, LIMIT) {
            Ok(explored) => panic!("{mistake:?} is not found: {explored}"),
            Err(run) => println!("{mistake:?}: {run}\n"),
        }
    }
}
