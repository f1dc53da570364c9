//! Steering: the kernel processes the packets of each partition on the CPU that owns the partition.
//! `RxCpuSockets` shows the tests on which CPU each packet was processed.

use std::collections::BTreeMap;

use anyhow::Result;
use laminar_xdp::{XdpAttachMode, XdpError, XdpLoader};
use testbed::frame::datagram;
use testbed::{RxCpuSockets, TestNet, kernel};

use crate::support::{
    config, load, online_cpus, steering_modes, steers_in_generic_mode, targets, tests,
};

tests! {
    Root:
        partitions_are_processed_on_the_cpu_of_their_owner,
        cpu_list_may_be_a_single_cpu_that_is_not_the_first,
        number_of_partitions_need_not_be_a_power_of_two,
        moved_partition_is_processed_on_its_new_cpu,
        moves_to_unknown_cpus_and_partitions_are_refused,
        objects_that_cannot_steer_in_generic_mode_filter_there,
        no_object_loses_valid_packets_in_any_mode,
        jumbo_frames_are_steered_in_native_mode;
}

/// Sends one datagram for each key. Returns the CPU that processed each datagram.
fn cpus_of(net: &TestNet, rx_cpus: &RxCpuSockets, keys: &[u32]) -> Result<BTreeMap<u32, usize>> {
    let sender = net.sending_socket()?;
    for &key in keys {
        sender.send_to(&datagram(key, b""), TestNet::destination(9999))?;
    }
    let mut processed_on = BTreeMap::new();
    rx_cpus.receive(keys.len(), |cpu, bytes| {
        processed_on.insert(u32::from_be_bytes(bytes[4..8].try_into().unwrap()), cpu);
    })?;
    Ok(processed_on)
}

fn setup(
    cpus: &[u32],
    change: impl FnOnce(laminar_xdp::XdpConfigBuilder) -> laminar_xdp::XdpConfigBuilder,
) -> Result<(TestNet, RxCpuSockets, XdpLoader)> {
    let net = TestNet::new()?;
    let rx_cpus = net.receiver.enter(|| RxCpuSockets::bind(TestNet::destination(9999)))?;
    let loader = load(&net, &change(config()).build()?, cpus)?;
    Ok((net, rx_cpus, loader))
}

fn partitions_are_processed_on_the_cpu_of_their_owner() -> Result<()> {
    let cpus = online_cpus();
    for &mode in steering_modes() {
        for reversed in [false, true] {
            let mut cpus = cpus.clone();
            if reversed {
                cpus.reverse();
            }
            let (net, rx_cpus, loader) = setup(&cpus, |config| config.attach_mode(mode))?;
            assert_eq!(loader.partitions() % cpus.len() as u32, 0);
            let keys = [0, 1, 2, 3, 62, 63, 64, 65, 1_000_000, u32::MAX - 1, u32::MAX];
            let expected = keys.map(|key| (key, cpus[key as usize % cpus.len()] as usize));
            assert_eq!(cpus_of(&net, &rx_cpus, &keys)?, BTreeMap::from(expected), "{mode}");
            assert_eq!(loader.stats()?.redirected, keys.len() as u64);
        }
    }
    Ok(())
}

fn cpu_list_may_be_a_single_cpu_that_is_not_the_first() -> Result<()> {
    let last = *online_cpus().last().unwrap();
    for &target in targets() {
        let (net, rx_cpus, loader) = setup(&[last], |config| config.force_target(target))?;
        let processed_on = cpus_of(&net, &rx_cpus, &[0, 1, 2, 3])?;
        let all_on_last = processed_on.values().all(|&cpu| cpu == last as usize);
        assert!(processed_on.len() == 4 && all_on_last, "{processed_on:?}");
        assert_eq!(loader.cpus(), [last]);
    }
    Ok(())
}

fn number_of_partitions_need_not_be_a_power_of_two() -> Result<()> {
    let cpus = online_cpus();
    let partitions = 3 * cpus.len() as u32;
    for &target in targets() {
        let (net, rx_cpus, loader) =
            setup(&cpus, |config| config.partitions(partitions).force_target(target))?;
        // Move the last partition to another CPU. If the modulus is wrong, the keys of that
        // partition go to a wrong CPU.
        loader.update_cpu_steering(partitions - 1, cpus[0])?;
        let keys: Vec<u32> = (0..3 * partitions).collect();
        let expected = keys.iter().map(|&key| {
            let partition = key % partitions;
            let owner =
                if partition == partitions - 1 { 0 } else { partition as usize % cpus.len() };
            (key, cpus[owner] as usize)
        });
        assert_eq!(cpus_of(&net, &rx_cpus, &keys)?, expected.collect(), "{target}");
    }
    Ok(())
}

/// Each burst is processed on the CPU that owned the partition when the burst was sent. No datagram
/// is lost.
fn moved_partition_is_processed_on_its_new_cpu() -> Result<()> {
    const BURST: usize = 50;
    let cpus = online_cpus();
    for &mode in steering_modes() {
        let (net, rx_cpus, loader) = setup(&cpus, |config| config.attach_mode(mode))?;
        let sender = net.sending_socket()?;
        let (moved, still) = (5, 6);
        let owner_of_still = cpus[still % cpus.len()] as usize;
        for round in 0..20 {
            let owner = cpus[round % cpus.len()];
            loader.update_cpu_steering(moved, owner)?;
            for _ in 0..BURST {
                sender.send_to(&datagram(moved, b""), TestNet::destination(9999))?;
                sender.send_to(&datagram(still as u32, b""), TestNet::destination(9999))?;
            }
            let mut elsewhere = 0;
            let received = rx_cpus.receive(2 * BURST, |cpu, bytes| {
                let expected =
                    if bytes[7] == moved as u8 { owner as usize } else { owner_of_still };
                elsewhere += (cpu != expected) as usize;
            })?;
            assert_eq!((received, elsewhere), (2 * BURST, 0), "{mode}, round {round}");
        }
        assert_eq!(loader.stats()?.redirected, 20 * 2 * BURST as u64);
    }
    Ok(())
}

fn moves_to_unknown_cpus_and_partitions_are_refused() -> Result<()> {
    let cpus = online_cpus();
    let (net, rx_cpus, loader) = setup(&cpus[..1], |config| config.partitions(8))?;
    let refused = |partition, cpu| loader.update_cpu_steering(partition, cpu).unwrap_err();
    // This CPU is online, but it has no queue.
    assert!(matches!(refused(0, cpus[1]), XdpError::UnknownCpu { .. }));
    assert!(matches!(refused(0, u32::MAX), XdpError::UnknownCpu { .. }));
    assert!(matches!(refused(8, cpus[0]), XdpError::UnknownPartition { partition: 8, .. }));
    let processed_on = cpus_of(&net, &rx_cpus, &[0])?;
    assert_eq!(processed_on[&0], cpus[0] as usize, "a refused move changed the owner");
    Ok(())
}

/// Most objects must not steer in generic mode. Kernels before 5.15 lose packets that are
/// redirected to a CPU map with 4-byte values, and an object with such a map cannot tell which
/// kernel it runs on. Multi-buffer programs lose redirected packets in generic mode on later
/// kernels too.
fn objects_that_cannot_steer_in_generic_mode_filter_there() -> Result<()> {
    for &target in targets().iter().filter(|target| !steers_in_generic_mode(target)) {
        let (net, rx_cpus, loader) = setup(&online_cpus(), |config| {
            config.force_target(target).attach_mode(XdpAttachMode::Generic)
        })?;
        only_filters(&net, &rx_cpus, &loader)?;
        assert!(loader.selection().to_string().contains("filters without steering"));
    }
    Ok(())
}

fn only_filters(net: &TestNet, rx_cpus: &RxCpuSockets, loader: &XdpLoader) -> Result<()> {
    assert!(!loader.steers());
    assert!(matches!(loader.update_cpu_steering(0, 0), Err(XdpError::FilterOnly)));
    net.sending_socket()?.send_to(b"junk", TestNet::destination(9999))?;
    assert_eq!(cpus_of(net, rx_cpus, &[0, 1, 2])?.len(), 3, "a valid packet did not pass");
    let stats = loader.stats()?;
    assert_eq!((stats.redirected, stats.passed_no_queue, stats.dropped), (0, 3, 1));
    Ok(())
}

/// In each mode, the kernel either refuses an object or delivers every valid packet. An object that
/// the kernel accepts either steers or only filters.
fn no_object_loses_valid_packets_in_any_mode() -> Result<()> {
    for &target in targets() {
        for mode in [XdpAttachMode::Native, XdpAttachMode::Generic] {
            let net = TestNet::new()?;
            let rx_cpus = net.receiver.enter(|| RxCpuSockets::bind(TestNet::destination(9999)))?;
            let config = config().force_target(target).attach_mode(mode).build()?;
            let loader = match load(&net, &config, &online_cpus()) {
                Ok(loader) => loader,
                Err(error) => {
                    // Before Linux 5.15, the kernel refuses to attach a program in generic mode if
                    // the CPU map of the program has 8-byte values.
                    let generic = mode == XdpAttachMode::Generic;
                    assert!(generic && !steering_modes().contains(&mode), "{target}: {error}");
                    assert!(steers_in_generic_mode(target), "{target}: {error}");
                    assert!(matches!(error, XdpError::Attach { .. }), "{error}");
                    assert!(!net.carries_xdp()?);
                    continue;
                }
            };
            match loader.steers() {
                true => {
                    assert_eq!(cpus_of(&net, &rx_cpus, &[0, 1, 2])?.len(), 3, "{target}, {mode}")
                }
                false => only_filters(&net, &rx_cpus, &loader)?,
            }
        }
    }
    Ok(())
}

/// Jumbo packets of up to 9000 bytes, which need several buffers, arrive intact on the owner's CPU.
/// Junk of the same size is dropped.
fn jumbo_frames_are_steered_in_native_mode() -> Result<()> {
    const LARGEST: usize = 9000 - 28 - 12;
    let cpus = online_cpus();
    let net = TestNet::new()?;
    net.set_mtu(9000)?;
    let rx_cpus = net.receiver.enter(|| RxCpuSockets::bind(TestNet::destination(9999)))?;
    let native = config().attach_mode(XdpAttachMode::Native).build()?;
    if !kernel::has_multi_buffer() {
        let error = load(&net, &native, &cpus).unwrap_err();
        assert!(error.to_string().contains("MTU"), "{error}");
        assert!(!net.carries_xdp()?);
        return Ok(());
    }
    let loader = load(&net, &native, &cpus)?;
    assert!(loader.steers());
    let sender = net.sending_socket()?;
    for key in 0..8u32 {
        for length in [1, 3000, 4096, LARGEST] {
            let sent = datagram(key, &vec![key as u8; length]);
            sender.send_to(&sent, TestNet::destination(9999))?;
            sender.send_to(&vec![0; length + 12], TestNet::destination(9999))?;
            let mut intact = false;
            let received = rx_cpus.receive(1, |cpu, bytes| {
                let owner = cpus[key as usize % cpus.len()];
                intact = bytes == sent && cpu == owner as usize;
            })?;
            assert_eq!((received, intact), (1, true), "key {key}, {length} bytes");
        }
    }
    let stats = loader.stats()?;
    assert_eq!((stats.redirected, stats.dropped_magic, stats.total()), (32, 32, 64));
    Ok(())
}
