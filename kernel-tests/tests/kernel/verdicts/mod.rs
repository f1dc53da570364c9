//! The verdict table, row by row, on crafted frames. The tests run every object on each frame with
//! the kernel's test run (`BPF_PROG_TEST_RUN`). Only the counter that the row names may change.

use anyhow::{Context, Result, ensure};
use laminar_xdp::{Layer, SourceLimit, SourceLists, XdpReason, XdpVerdict};
use rows::{Row, changed, cut, ipv4_rows, ipv6_rows, vlan_rows};
use testbed::frame::{self, PAYLOAD, datagram};
use testbed::{TestNet, bpf, kernel};

use crate::support::{DROP, PASS, REDIRECT, config, load, online_cpus, program_of, targets, tests};

mod rows;

tests! {
    Root:
        every_row_gets_its_verdict_and_counter,
        every_row_gets_its_verdict_and_counter_on_another_port,
        every_reason_of_xdp_has_a_row,
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
        let rows = all_rows(port);
        for Row { what, frame, verdict, reason } in &rows {
            let before = loader.stats()?;
            let run = bpf::run(&program, frame, 1).with_context(|| format!("{target}: {what}"))?;
            assert_eq!(run.verdict, *verdict, "{target}: {what}");
            let moved = loader.stats()? - before;
            assert_eq!(moved.total(), reason.is_some() as u64, "{target}: {what}");
            if let Some(reason) = reason {
                assert_eq!(moved.get(*reason), 1, "{target}: {what}: {reason}");
                assert_eq!(number_of(reason.verdict()), *verdict, "{target}: {what}: {reason}");
            }
        }
        let counted = rows.iter().filter(|row| row.reason.is_some()).count();
        assert_eq!(loader.stats()?.total(), counted as u64);
        loader.detach()?;
    }
    Ok(())
}

fn all_rows(port: u16) -> Vec<Row> {
    [ipv4_rows, ipv6_rows, vlan_rows].iter().flat_map(|rows| rows(port)).collect()
}

fn number_of(verdict: XdpVerdict) -> u32 {
    match verdict {
        XdpVerdict::Passed => PASS,
        XdpVerdict::Dropped => DROP,
        XdpVerdict::Redirected => REDIRECT,
        other => panic!("the test does not know the verdict {other:?}"),
    }
}

/// If this test fails for a new reason, add a row to the table, or a frame to
/// `reasons_by_configuration`.
fn every_reason_of_xdp_has_a_row() -> Result<()> {
    let mut seen = reasons_by_configuration()?;
    seen.extend(all_rows(9999).into_iter().filter_map(|row| row.reason));
    for reason in XdpReason::ALL.iter().filter(|reason| reason.layers().contains(&Layer::Xdp)) {
        ensure!(seen.contains(reason), "{reason} has no row of the verdict table");
    }
    Ok(())
}

/// Runs packets for the reasons that depend on lists, limits or queues. Returns the reasons that
/// were counted.
fn reasons_by_configuration() -> Result<Vec<XdpReason>> {
    let net = TestNet::new()?;
    let config = config()
        .force_target("linux-5.9")
        .source_lists(SourceLists::new().deny(["198.51.100.7/32".parse()?]))
        .source_limit(SourceLimit::per_second(1).burst(1));
    let loader = load(&net, &config.build()?, &online_cpus())?;
    let program = program_of(&loader)?;
    let from = |source: [u8; 4]| frame::udp_from(source.into(), 9999, &datagram(7, b"hello"));
    bpf::run(&program, &from([198, 51, 100, 7]), 1)?;
    bpf::run(&program, &from([192, 0, 2, 77]), 2)?;
    for cpu in online_cpus() {
        bpf::delete_from_map(&program, c"cpu_map", cpu)?;
    }
    bpf::run(&program, &from([192, 0, 2, 78]), 1)?;
    let stats = loader.stats()?;
    let counted = (stats.dropped_denied, stats.dropped_rate, stats.passed_no_queue);
    assert_eq!(counted, (1, 1, 1), "{stats:?}");
    Ok(XdpReason::ALL.iter().copied().filter(|reason| stats.get(*reason) > 0).collect())
}

/// A program can access only the first buffer of a packet through pointers, and some drivers leave
/// the first buffer empty. The verdict must not depend on where the first buffer ends.
fn verdict_is_the_same_wherever_a_buffer_ends() -> Result<()> {
    if !kernel::has_multi_buffer() {
        return Ok(()); // the module `selection` tests that this kernel refuses the object
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
