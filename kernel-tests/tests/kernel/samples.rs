//! Samples of dropped packets, the capture file that contains the samples, and the counters of each
//! CPU.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use laminar_xdp::{DropSample, PcapngWriter, SourceLists, XdpLoader, XdpReason};
use pcap_parser::traits::{PcapNGPacketBlock, PcapReaderIterator};
use pcap_parser::{Block, Linktype, PcapBlockOwned, PcapNGReader};
use testbed::frame::{self, datagram};
use testbed::{TestNet, bpf, kernel};

use crate::support::{config, load, online_cpus, program_of, targets_with_features, tests};

tests! {
    Root:
        samples_show_reason_length_and_bytes_of_every_drop,
        samples_show_one_in_n_of_each_reason,
        samples_are_whole_wherever_a_buffer_ends,
        full_sample_buffer_loses_samples_but_counts_every_drop,
        capture_file_is_readable_by_another_library,
        counters_have_packets_and_bytes_by_cpu;
}

fn sampling(net: &TestNet, target: &str, one_in: u32) -> Result<(XdpLoader, OwnedFd)> {
    let lists = SourceLists::new().deny(["198.51.100.0/24".parse()?]);
    let config = config().force_target(target).source_lists(lists).drop_samples(one_in);
    let loader = load(net, &config.build()?, &online_cpus())?;
    let program = program_of(&loader)?;
    Ok((loader, program))
}

/// One frame for each reason to drop, with the reason, and some frames that are not dropped.
fn frames() -> Vec<(Option<XdpReason>, Vec<u8>)> {
    let mut long = datagram(7, &[9; 500]);
    long[0] = b'l';
    let wrong_length = [&datagram(7, b"abc")[..], b"d"].concat();
    let denied = "198.51.100.7".parse().expect("an address");
    vec![
        (Some(XdpReason::DroppedShort), frame::udp(9999, b"")),
        (Some(XdpReason::DroppedMagic), frame::udp(9999, &long)),
        (Some(XdpReason::DroppedLength), frame::udp_ipv6(9999, &wrong_length, &[])),
        (Some(XdpReason::DroppedDenied), frame::udp_from(denied, 9999, &datagram(7, b"x"))),
        (None, frame::udp(9999, &datagram(7, b"valid"))),
        (None, frame::udp(9998, b"not ours")),
        (None, frame::fragment(9999, &[0; 16], 1, false)),
    ]
}

fn samples_show_reason_length_and_bytes_of_every_drop() -> Result<()> {
    for target in targets_with_features() {
        let net = TestNet::new()?;
        let (loader, program) = sampling(&net, target, 1)?;
        let before = SystemTime::now();
        let frames = frames();
        for (_, frame) in &frames {
            bpf::run(&program, frame, 1)?;
        }
        let samples = loader.controls().drop_samples(Duration::from_secs(5))?;
        let dropped = frames.iter().filter_map(|(reason, frame)| Some(((*reason)?, frame)));
        assert_eq!(samples.len(), dropped.clone().count(), "{target}");
        for (sample, (reason, frame)) in samples.iter().zip(dropped) {
            assert_eq!(sample.reason, reason, "{target}");
            assert_eq!(sample.length as usize, frame.len());
            assert_eq!(sample.packet, frame[..frame.len().min(128)]);
            let slack = Duration::from_secs(1);
            let now = SystemTime::now();
            assert!(before - slack <= sample.time && sample.time <= now + slack);
        }
        assert_eq!(
            loader.controls().drop_samples(Duration::ZERO)?,
            [],
            "a sample was returned twice"
        );
    }
    Ok(())
}

/// With a setting of one in five, the program samples the first packet of each reason, and then
/// every fifth packet of that reason.
fn samples_show_one_in_n_of_each_reason() -> Result<()> {
    let net = TestNet::new()?;
    let (loader, program) = sampling(&net, "linux-5.9", 5)?;
    let shown = |runs: u32| -> Result<BTreeMap<XdpReason, u32>> {
        // Run all packets on one CPU: each CPU counts separately how many packets of a reason it
        // has seen.
        testbed::on_cpu(online_cpus()[0], || -> Result<()> {
            for _ in 0..runs {
                bpf::run(&program, &frame::udp(9999, b"junk"), 1)?;
            }
            bpf::run(&program, &frame::udp(9999, b"long enough, but junk"), 1)?;
            Ok(())
        })??;
        let mut by_reason = BTreeMap::new();
        for sample in loader.controls().drop_samples(Duration::from_millis(100))? {
            *by_reason.entry(sample.reason).or_insert(0) += 1;
        }
        Ok(by_reason)
    };
    let (short, magic) = (XdpReason::DroppedShort, XdpReason::DroppedMagic);
    assert_eq!(shown(21)?, BTreeMap::from([(short, 5), (magic, 1)]));
    loader.controls().set_drop_samples(0)?;
    assert_eq!(shown(9)?, BTreeMap::new(), "a packet was sampled with samples off");
    loader.controls().set_drop_samples(1)?;
    assert_eq!(shown(10)?, BTreeMap::from([(short, 10), (magic, 1)]));
    Ok(())
}

fn samples_are_whole_wherever_a_buffer_ends() -> Result<()> {
    if !kernel::has_multi_buffer() || !kernel::test_run_splits_packets() {
        return Ok(());
    }
    let net = TestNet::new()?;
    let (loader, program) = sampling(&net, "linux-5.18", 1)?;
    let mut long = datagram(7, &(0..=255).cycle().take(3000).collect::<Vec<u8>>());
    long[0] = b'l';
    let junk = frame::udp(9999, b"no datagram of ours");
    let (end, padded) = (junk.len(), frame::padded(junk, 120));
    for frame in [frame::udp(9999, b""), frame::udp(9999, &long), padded] {
        for first in [0, 14, 40, end, 100, 127, 128, 129] {
            let first = frame.len().min(first);
            bpf::run_split(&program, &frame, first)?;
            let samples = loader.controls().drop_samples(Duration::from_secs(5))?;
            let [sample] = &samples[..] else { panic!("{} samples", samples.len()) };
            assert_eq!(sample.packet, frame[..frame.len().min(128)], "{first}");
            assert_eq!(sample.length as usize, frame.len(), "{first}");
        }
    }
    Ok(())
}

fn full_sample_buffer_loses_samples_but_counts_every_drop() -> Result<()> {
    let net = TestNet::new()?;
    let (loader, program) = sampling(&net, "linux-5.9", 1)?;
    bpf::run(&program, &frame::udp(9999, b"junk"), 10_000)?;
    assert_eq!(loader.stats()?.dropped_short, 10_000);
    let mut samples = 0;
    loop {
        match loader.controls().drop_samples(Duration::ZERO)?.len() {
            0 => break,
            more => samples += more,
        }
    }
    assert!((1000..5000).contains(&samples), "{samples}");
    bpf::run(&program, &frame::udp(9999, b"junk"), 1)?;
    assert_eq!(
        loader.controls().drop_samples(Duration::from_secs(5))?.len(),
        1,
        "reading the samples did not free the buffer"
    );
    Ok(())
}

fn capture_file_is_readable_by_another_library() -> Result<()> {
    let net = TestNet::new()?;
    let (loader, program) = sampling(&net, "linux-5.9", 1)?;
    for (_, frame) in frames() {
        bpf::run(&program, &frame, 1)?;
    }
    let samples = loader.controls().drop_samples(Duration::from_secs(5))?;
    assert_eq!(samples.len(), 4);
    let mut capture = PcapngWriter::new(Vec::new(), "eth0")?;
    samples.iter().try_for_each(|sample| capture.write(sample))?;
    let bytes = capture.into_inner();
    if cfg!(target_endian = "big") {
        // On s390x, pcap-parser 0.17 finds no block after the first one.
        return Ok(());
    }

    let mut reader = PcapNGReader::new(1 << 16, &bytes[..]).context("a reader")?;
    let mut left = samples.iter();
    let (mut sections, mut interfaces) = (0, 0);
    while let Ok((length, block)) = reader.next() {
        let PcapBlockOwned::NG(block) = block else { panic!("another format") };
        match block {
            Block::SectionHeader(_) => sections += 1,
            Block::InterfaceDescription(interface) => {
                assert_eq!(interface.linktype, Linktype::ETHERNET);
                assert_eq!(interface.snaplen as usize, DropSample::MAX_PACKET);
                assert_eq!(interface.if_tsresol, 9);
                assert_eq!(interface.options[0].as_bytes()?, b"eth0");
                interfaces += 1;
            }
            Block::EnhancedPacket(packet) => {
                let sample = left.next().context("more packets than samples")?;
                let since_epoch = sample.time.duration_since(SystemTime::UNIX_EPOCH)?;
                let time = u64::from(packet.ts_high) << 32 | u64::from(packet.ts_low);
                assert_eq!(u128::from(time), since_epoch.as_nanos());
                assert_eq!(packet.packet_data(), sample.packet);
                assert_eq!(packet.origlen, sample.length);
                assert_eq!(packet.options[0].as_bytes()?, sample.reason.name().as_bytes());
            }
            other => panic!("{other:?}"),
        }
        reader.consume(length);
    }
    assert_eq!((sections, interfaces, left.count()), (1, 1, 0));
    Ok(())
}

fn counters_have_packets_and_bytes_by_cpu() -> Result<()> {
    let net = TestNet::new()?;
    let loader = load(&net, &config().build()?, &online_cpus())?;
    assert_eq!(loader.counters()?, []);
    let program = program_of(&loader)?;
    let (junk, fragment) = (frame::udp(9999, b"junk"), frame::fragment(1, &[0; 800], 1, true));
    for (runs, cpu) in (1u32..).zip(online_cpus()) {
        let run = || -> Result<()> {
            bpf::run(&program, &junk, runs)?;
            bpf::run(&program, &fragment, 3)?;
            Ok(())
        };
        testbed::on_cpu(cpu, run)??;
    }
    let counters = loader.counters()?;
    let found: Vec<_> = counters.iter().map(|c| (c.reason, c.cpu, c.packets, c.bytes)).collect();
    let each = |reason, frame: &[u8], packets: fn(u32) -> u32| {
        let length = frame.len() as u64;
        let of_cpu = move |(runs, cpu)| {
            let packets = u64::from(packets(runs));
            (reason, cpu, packets, packets * length)
        };
        (1u32..).zip(online_cpus()).map(of_cpu).collect::<Vec<_>>()
    };
    let fragments = each(XdpReason::PassedFragment, &fragment, |_| 3);
    let shorts = each(XdpReason::DroppedShort, &junk, |runs| runs);
    assert_eq!(found, [fragments, shorts].concat());
    Ok(())
}
