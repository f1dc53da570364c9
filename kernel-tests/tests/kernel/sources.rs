//! Lists and limits by source address: the verdicts, full tables, and a flood.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use laminar_xdp::{
    IpNet, SourceLimit, SourceLists, XdpConfig, XdpConfigBuilder, XdpError, XdpLoader,
};
use testbed::frame::{self, datagram};
use testbed::{RxCpuSockets, TestNet, bpf};

use crate::support::{
    BASELINE, DROP, PASS, REDIRECT, config, datagrams, load, note, online_cpus, program_of,
    targets_with_features, tests, wait_until,
};

tests! {
    Root:
        deny_list_drops_its_prefixes_on_our_ports_only,
        each_source_has_a_bucket_of_its_own_and_junk_takes_nothing_from_it,
        allowed_sources_have_no_limit_and_denied_beats_allowed,
        new_limit_takes_effect_at_once,
        buckets_refill_over_time,
        full_table_of_sources_drops_no_new_source,
        full_list_refuses_a_further_prefix,
        controls_that_were_not_configured_are_refused,
        objects_without_features_are_not_used_for_lists_and_limits,
        flood_does_not_harm_a_source_within_its_limit;
}

/// An IPv4 source address that ends with this byte.
fn ipv4(host: u8) -> IpAddr {
    Ipv4Addr::new(198, 51, 100, host).into()
}

fn ipv6(host: u16) -> IpAddr {
    Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, host).into()
}

fn prefix(text: &str) -> IpNet {
    text.parse().expect("a prefix")
}

/// A loader and its program, for test runs on frames.
struct Running {
    loader: XdpLoader,
    program: std::os::fd::OwnedFd,
    _wire: TestNet,
}

impl Running {
    fn new(config: XdpConfigBuilder) -> Result<Running> {
        let net = TestNet::new()?;
        let loader = load(&net, &config.build()?, &online_cpus())?;
        let program = program_of(&loader)?;
        Ok(Running { loader, program, _wire: net })
    }

    /// The verdict on a valid datagram from this source.
    fn valid_from(&self, source: IpAddr) -> Result<u32> {
        self.verdict(&frame::udp_from(source, 9999, &datagram(7, b"hello")))
    }

    fn verdict(&self, frame: &[u8]) -> Result<u32> {
        Ok(bpf::run(&self.program, frame, 1)?.verdict)
    }
}

/// A limit whose buckets gain only one packet per second, so they hardly refill during a test.
fn slow(burst: u32) -> SourceLimit {
    SourceLimit::per_second(1).burst(burst)
}

fn deny_list_drops_its_prefixes_on_our_ports_only() -> Result<()> {
    for target in targets_with_features() {
        let lists = SourceLists::new()
            .deny([prefix("198.51.100.64/27"), prefix("2001:db8:0:1::8/125")])
            .allow([prefix("198.51.100.64/32"), prefix("::/0")]);
        let running = Running::new(config().force_target(target).source_lists(lists))?;
        let verdicts = [
            (ipv4(63), REDIRECT),
            (ipv4(64), DROP),
            (ipv4(95), DROP),
            (ipv4(96), REDIRECT),
            (ipv6(7), REDIRECT),
            (ipv6(8), DROP),
            (ipv6(15), DROP),
            (ipv6(16), REDIRECT),
        ];
        for (source, verdict) in verdicts {
            assert_eq!(running.valid_from(source)?, verdict, "{target}: {source}");
        }
        let verdict = |frame: Vec<u8>| running.verdict(&frame);
        let junk = frame::udp_from(ipv4(64), 9999, b"junk");
        assert_eq!(verdict(junk.clone())?, DROP);
        assert_eq!(
            verdict(frame::with_udp_length(junk, 3))?,
            DROP,
            "the deny list must be checked before the UDP length"
        );
        let others = frame::udp_from(ipv4(64), 9998, b"not ours");
        assert_eq!(verdict(others)?, PASS, "a denied source must reach other ports");
        let stats = running.loader.stats()?;
        assert_eq!((stats.dropped_denied, stats.dropped, stats.redirected), (6, 6, 4));

        let controls = running.loader.controls();
        controls.deny(prefix("198.51.0.0/16"))?;
        assert_eq!(running.valid_from(ipv4(63))?, DROP);
        controls.remove_deny(prefix("198.51.0.0/16"))?;
        assert_eq!(running.valid_from(ipv4(63))?, REDIRECT);
        assert_eq!(running.valid_from(ipv4(64))?, DROP, "the other prefix must stay on the list");
        controls.deny(prefix("::/0"))?;
        assert_eq!(running.valid_from(ipv6(7))?, DROP);
        assert_eq!(running.valid_from(ipv4(63))?, REDIRECT, "an IPv6 prefix must not match IPv4");
        controls.deny(prefix("0.0.0.0/0"))?;
        assert_eq!(running.valid_from(ipv4(63))?, DROP);
    }
    Ok(())
}

/// Runs the program on valid datagrams from a source. Returns how many datagrams the program does
/// not drop.
fn pass(running: &Running, source: IpAddr, datagrams: u32) -> Result<u32> {
    let mut passed = 0;
    for _ in 0..datagrams {
        passed += u32::from(running.valid_from(source)? != DROP);
    }
    Ok(passed)
}

fn each_source_has_a_bucket_of_its_own_and_junk_takes_nothing_from_it() -> Result<()> {
    for target in targets_with_features() {
        let running = Running::new(config().force_target(target).source_limit(slow(1000)))?;
        running.loader.controls().set_source_limit(slow(5))?;
        for source in [ipv4(1), ipv6(1), ipv4(2), ipv6(2)] {
            assert_eq!(pass(&running, source, 5)?, 5, "{target}: {source}");
            // On a slow machine, sending these datagrams takes more than a second. The bucket then
            // gains packets, and some of the datagrams pass.
            assert!(pass(&running, source, 20)? < 20, "{target}: {source}");
        }
        let before = running.loader.stats()?;
        for _ in 0..100 {
            assert_eq!(running.verdict(&frame::udp_from(ipv4(3), 9999, b"junk"))?, DROP);
            let others = frame::udp_from(ipv4(3), 9998, b"not ours");
            assert_eq!(running.verdict(&others)?, PASS);
        }
        let after = running.loader.stats()?;
        assert_eq!(after.dropped_short - before.dropped_short, 100);
        assert_eq!(pass(&running, ipv4(3), 5)?, 5, "junk took tokens from the bucket");
        assert!(after.dropped_rate > 0 && after.dropped_rate <= 80);
    }
    Ok(())
}

fn allowed_sources_have_no_limit_and_denied_beats_allowed() -> Result<()> {
    let lists =
        SourceLists::new().deny([prefix("198.51.100.9/32")]).allow([prefix("198.51.100.8/31")]);
    let running = Running::new(config().source_limit(slow(2)).source_lists(lists))?;
    assert_eq!(pass(&running, ipv4(8), 100)?, 100);
    assert_eq!(pass(&running, ipv4(9), 100)?, 0, "a source on both lists must be denied");
    assert!(pass(&running, ipv4(10), 100)? < 100);
    running.loader.controls().remove_allow(prefix("198.51.100.8/31"))?;
    assert!(pass(&running, ipv4(8), 100)? < 100);
    running.loader.controls().allow(prefix("2001:db8::/32"))?;
    assert_eq!(pass(&running, ipv6(1), 100)?, 100);
    Ok(())
}

/// A source has used up its bucket under a slow limit. The source can send again as soon as a
/// faster limit is set.
fn new_limit_takes_effect_at_once() -> Result<()> {
    let running = Running::new(config().source_limit(slow(1000)))?;
    assert_eq!(pass(&running, ipv4(1), 1000)?, 1000);
    let fast = SourceLimit::per_second(10_000_000).burst(1);
    running.loader.controls().set_source_limit(fast)?;
    // The first datagram may still find an empty bucket, so ignore its verdict.
    pass(&running, ipv4(1), 1)?;
    std::thread::sleep(Duration::from_millis(1));
    assert_eq!(running.valid_from(ipv4(1))?, REDIRECT);
    Ok(())
}

fn buckets_refill_over_time() -> Result<()> {
    let limit = SourceLimit::per_second(20).burst(3);
    let running = Running::new(config().source_limit(limit))?;
    assert!(pass(&running, ipv4(1), 1000)? >= 3);
    // The bucket gains two packets in 110 ms. On a slow machine more time passes, and the bucket
    // may gain more. The bucket never holds more than the burst of three packets.
    std::thread::sleep(Duration::from_millis(110));
    let begin = Instant::now();
    let passed = pass(&running, ipv4(1), 50)?;
    let meanwhile = begin.elapsed().as_millis() as u32 / 50 + 1;
    assert!((2..=3 + meanwhile).contains(&passed), "{passed}");
    Ok(())
}

/// A full table evicts old sources. A source that is not in the table starts with a full bucket.
fn full_table_of_sources_drops_no_new_source() -> Result<()> {
    let running = Running::new(config().source_limit(slow(2)).max_sources(512u32))?;
    let source = |number: u32| IpAddr::from(Ipv4Addr::from(0x0a00_0000 + number));
    for number in 0..8 * 512 {
        assert_eq!(running.valid_from(source(number))?, REDIRECT, "source {number}");
    }
    // The table has evicted the sources that came first, so these sources have full buckets again.
    assert_eq!(pass(&running, source(0), 2)?, 2);
    // The limit still applies to a source that stays in the table.
    assert!(pass(&running, ipv4(1), 10)? < 10);
    assert!(running.loader.stats()?.dropped_rate > 0);
    Ok(())
}

fn full_list_refuses_a_further_prefix() -> Result<()> {
    let host = |host: u8| IpNet::from(ipv4(host));
    let lists = SourceLists::new().deny([host(1), host(2)]);
    let running = Running::new(config().source_lists(lists).max_prefixes(3u32))?;
    let controls = running.loader.controls();
    controls.deny(host(2))?; // already on the list, so it takes no further entry
    controls.deny(host(3))?;
    let error = controls.deny(host(4)).expect_err("a full list");
    let full = XdpError::ListFull { list: "deny", prefix: host(4), max_prefixes: 3 };
    assert_eq!(error.to_string(), full.to_string());
    assert_eq!(running.valid_from(ipv4(4))?, REDIRECT, "the refused prefix is on the list");
    (1..=3).try_for_each(|h| -> Result<()> {
        ensure!(running.valid_from(ipv4(h))? == DROP, "{h}");
        Ok(())
    })?;
    controls.remove_deny(host(1))?;
    controls.deny(host(4))?;
    assert_eq!((running.valid_from(ipv4(1))?, running.valid_from(ipv4(4))?), (REDIRECT, DROP));
    let error = controls.remove_deny(host(1)).expect_err("the prefix was already removed");
    assert!(matches!(error, XdpError::NotListed { list: "deny", .. }), "{error}");
    Ok(())
}

fn controls_that_were_not_configured_are_refused() -> Result<()> {
    let running = Running::new(config())?;
    let controls = running.loader.controls();
    for result in [
        controls.set_source_limit(slow(1)),
        controls.deny(prefix("10.0.0.0/8")),
        controls.remove_allow(prefix("10.0.0.0/8")),
        controls.set_drop_samples(1),
        controls.drop_samples(Duration::ZERO).map(drop),
    ] {
        let error = result.expect_err("not configured");
        assert!(matches!(error, XdpError::FeatureOff { .. }), "{error}");
    }
    let running = Running::new(config().source_limit(slow(1)))?;
    let bad = SourceLimit::per_second(0).burst(1);
    assert!(running.loader.controls().set_source_limit(bad).is_err());
    Ok(())
}

fn objects_without_features_are_not_used_for_lists_and_limits() -> Result<()> {
    let net = TestNet::new()?;
    let refused = |config: &XdpConfig| {
        let error = load(&net, config, &online_cpus()).expect_err("no features").to_string();
        assert!(error.contains("no limits, lists or samples"), "{error}");
    };
    for target in ["linux-5.3", BASELINE] {
        refused(&config().force_target(target).source_limit(slow(1)).build()?);
        refused(&config().force_target(target).source_lists(SourceLists::default()).build()?);
        refused(&config().force_target(target).drop_samples(1).build()?);
    }
    assert!(!net.carries_xdp()?);
    Ok(())
}

/// Ten thousand sources each send five times as many packets as their burst allows. Another source
/// stays within its limit, and all frames of that source arrive.
fn flood_does_not_harm_a_source_within_its_limit() -> Result<()> {
    // Use fewer sources on an emulated machine.
    let sources = (datagrams() / 100).clamp(100, 10_000) as u32;
    const EACH: u32 = 20;
    let limit = SourceLimit::per_second(50).burst(4);
    let pause = Duration::from_millis(40);
    let net = TestNet::new()?;
    let rx_cpus = net.receiver.enter(|| RxCpuSockets::bind(TestNet::destination(9999)))?;
    let loader = load(&net, &config().source_limit(limit).build()?, &online_cpus())?;
    let socket = net.raw_socket()?;
    let one = frame::udp_from(TestNet::SENDER.into(), 9999, &datagram(1, b"keeps to the limit"));
    let (mut sent, mut kept, mut received, mut of_the_one) = (0, 0, 0, 0);
    let mut seen = |_, bytes: &[u8]| of_the_one += u64::from(bytes.ends_with(b"limit"));
    let begin = Instant::now();
    let mut last = None;
    for first in (0..sources).step_by(5) {
        if last.is_none_or(|last: Instant| last.elapsed() > pause) {
            socket.send(&one)?;
            (sent, kept, last) = (sent + 1, kept + 1, Some(Instant::now()));
        }
        for source in first..first + 5 {
            let address = Ipv4Addr::from(0x0a01_0000 + source);
            let flood = frame::udp_from(address.into(), 9999, &datagram(source, b"flood"));
            for _ in 0..EACH {
                socket.send(&flood)?;
            }
            sent += u64::from(EACH);
        }
        // The ring of a veth device holds 256 packets. Wait here, so that the ring does not
        // overflow.
        ensure!(wait_until(|| Ok(loader.stats()?.total() == sent))?, "the veth lost frames");
        let due = loader.stats()?.redirected - received;
        received += rx_cpus.receive(due as usize, &mut seen)? as u64;
    }
    received += rx_cpus.receive_rest(&mut seen)? as u64;
    let (stats, seconds) = (loader.stats()?, begin.elapsed().as_secs_f64());
    note(format!(
        "a flood from {sources} sources, {} frames in {seconds:.1} s: {} dropped; of {kept} \
         frames of the one that keeps to the limit {of_the_one} received",
        sent - kept,
        stats.dropped_rate
    ));
    assert_eq!(of_the_one, kept);
    assert_eq!(received, stats.redirected, "a frame that was not dropped is missing");
    // The sources send one after the other, so no two buckets gain packets at the same time. In
    // total the buckets gain at most what one bucket gains during the whole test.
    let gained = seconds * f64::from(limit.packets_per_second);
    let may = f64::from(sources * limit.burst) + gained;
    let passed = stats.redirected - kept;
    assert!(passed as f64 <= may, "{passed} packets of the flood passed, the limit allows {may}");
    assert_eq!(stats.dropped_rate, sent - stats.redirected);
    Ok(())
}
