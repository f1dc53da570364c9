//! The verdict table, row by row, on crafted frames. The kernel's test run executes every
//! object on each frame, and no counter but that of the row moves.

use anyhow::{Context, Result};
use rows::{Row, changed, cut, ipv4_rows, ipv6_rows, vlan_rows};
use testbed::frame::{self, PAYLOAD, datagram};
use testbed::{TestNet, bpf, kernel};

use crate::support::{DROP, PASS, REDIRECT, config, load, online_cpus, program_of, targets, tests};

mod rows;

tests! {
    Root:
        every_row_gets_its_verdict_and_counter,
        every_row_gets_its_verdict_and_counter_on_another_port,
        verdict_is_the_same_wherever_a_buffer_ends;
}

fn every_row_gets_its_verdict_and_counter() -> Result<()> {
    check_rows(9999)
}

fn every_row_gets_its_verdict_and_counter_on_another_port() -> Result<()> {
    check_rows(514)
}

fn check_rows(port: u16) -> Result<()> {
    let net = TestNet::new()?;
    for &target in targets() {
        let config = config().port(port).force_target(target).build()?;
        let loader = load(&net, &config, &online_cpus())?;
        let program = program_of(&loader)?;
        let rows: Vec<_> = [ipv4_rows, ipv6_rows, vlan_rows].iter().flat_map(|r| r(port)).collect();
        for Row { what, frame, verdict, counter } in &rows {
            let before = loader.stats()?;
            let run = bpf::run(&program, frame, 1).with_context(|| format!("{target}: {what}"))?;
            let after = loader.stats()?;
            assert_eq!(run.verdict, *verdict, "{target}: {what}");
            assert_eq!(
                after.total() - before.total(),
                counter.is_some() as u64,
                "{target}: {what}"
            );
            if let Some((name, read)) = counter {
                assert_eq!(read(&after) - read(&before), 1, "{target}: {what}: {name}");
            }
        }
        let stats = loader.stats()?;
        assert_eq!(stats.dropped, stats.dropped_short + stats.dropped_magic + stats.dropped_length);
        assert_eq!(stats.passed, stats.passed_fragment + stats.passed_no_queue);
        assert_eq!(stats.total(), rows.iter().filter(|row| row.counter.is_some()).count() as u64);
        loader.detach()?;
    }
    Ok(())
}

/// Packet pointers reach the first buffer only, and some drivers put everything into later
/// buffers.
fn verdict_is_the_same_wherever_a_buffer_ends() -> Result<()> {
    if !kernel::has_multi_buffer() {
        return Ok(()); // `selection` tests that the object is refused
    }
    let net = TestNet::new()?;
    let loader = load(&net, &config().force_target("linux-5.18").build()?, &online_cpus())?;
    let program = program_of(&loader)?;
    let large = |payload: &[u8]| frame::udp(9999, &datagram(7, payload));
    let valid = large(&[7; 20_000]);
    let length = (8 + 12 + 20_000) as u16;
    for (what, frame, verdict) in [
        ("valid", valid.clone(), REDIRECT),
        ("padded", frame::padded(valid.clone(), 21_000), REDIRECT),
        ("wrong magic", changed(valid.clone(), PAYLOAD, 0), DROP),
        ("wrong length", changed(valid.clone(), PAYLOAD + 11, 0), DROP),
        ("UDP length one less", frame::with_udp_length(valid.clone(), length - 1), DROP),
        ("UDP length one more", frame::with_udp_length(valid.clone(), length + 1), PASS),
        ("cut within the payload", cut(valid.clone(), valid.len() - 1), PASS),
    ] {
        assert_eq!(bpf::run(&program, &frame, 1)?.verdict, verdict, "{what}");
    }
    if !kernel::test_run_splits_packets() {
        return Ok(());
    }
    let before = loader.stats()?;
    let splits = PAYLOAD + 14;
    for first_buffer in 0..splits {
        for (frame, verdict) in [
            (large(b"hello"), REDIRECT),
            (frame::udp_with_options(9999, &datagram(7, b"hello"), &[1; 40]), REDIRECT),
            (frame::udp(9998, &datagram(7, b"hello")), PASS),
            (changed(large(b"hello"), PAYLOAD + 3, 0), DROP),
            (changed(large(b"hello"), PAYLOAD + 11, 4), DROP),
            (frame::udp(9999, &datagram(7, b"")[..11]), DROP),
            (cut(large(b"hello"), PAYLOAD + 11), PASS),
        ] {
            let first_buffer = first_buffer.min(frame.len());
            let run = bpf::run_split(&program, &frame, first_buffer)?;
            assert_eq!(
                run.verdict,
                verdict,
                "{} bytes, {first_buffer} in the first buffer",
                frame.len()
            );
        }
    }
    let (after, each) = (loader.stats()?, splits as u64);
    assert_eq!(after.redirected - before.redirected, 2 * each);
    assert_eq!(after.dropped_magic - before.dropped_magic, each);
    assert_eq!(after.dropped_length - before.dropped_length, each);
    assert_eq!(after.dropped_short - before.dropped_short, each);
    assert_eq!(after.invalid - before.invalid, each);
    Ok(())
}
