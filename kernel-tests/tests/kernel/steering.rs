//! Every partition's packets on the CPU that owns it, by the receiving side's
//! own account.

use std::collections::BTreeMap;

use anyhow::Result;
use laminar_xdp::{XdpAttachMode, XdpError, XdpLoader};
use testbed::frame::datagram;
use testbed::{RxCpuSockets, TestNet, kernel};

use crate::support::{config, load, online_cpus, steering_modes, targets, tests};

tests! {
    Root:
        each_partition_on_its_cpu,
        a_sparse_list_of_one_cpu,
        partitions_need_not_be_a_power_of_two,
        moving_a_partition_under_traffic,
        moves_that_make_no_sense_are_refused,
        objects_that_never_steer_in_generic_mode,
        no_mode_loses_valid_packets,
        jumbo_frames_in_native_mode;
}

/// Sends one datagram for each key and gives the CPU on which each arrived.
fn cpus_of(net: &TestNet, witness: &RxCpuSockets, keys: &[u32]) -> Result<BTreeMap<u32, usize>> {
    let sender = net.sending_socket()?;
    for &key in keys {
        sender.send_to(&datagram(key, b""), TestNet::destination(9999))?;
    }
    let mut cpus = BTreeMap::new();
    witness.receive(keys.len(), |cpu, bytes| {
        cpus.insert(u32::from_be_bytes(bytes[4..8].try_into().unwrap()), cpu);
    })?;
    Ok(cpus)
}

fn setup(
    cores: &[u32],
    change: impl FnOnce(laminar_xdp::XdpConfigBuilder) -> laminar_xdp::XdpConfigBuilder,
) -> Result<(TestNet, RxCpuSockets, XdpLoader)> {
    let net = TestNet::new()?;
    let witness = net.receiver.enter(|| RxCpuSockets::bind(TestNet::destination(9999)))?;
    let loader = load(&net, &change(config()).build()?, cores)?;
    Ok((net, witness, loader))
}

fn each_partition_on_its_cpu() -> Result<()> {
    let cores = online_cpus();
    for &mode in steering_modes() {
        for reversed in [false, true] {
            let mut cores = cores.clone();
            if reversed {
                cores.reverse();
            }
            let (net, witness, loader) = setup(&cores, |config| config.attach_mode(mode))?;
            assert_eq!(loader.partitions() % cores.len() as u32, 0);
            let keys = [0, 1, 2, 3, 62, 63, 64, 65, 1_000_000, u32::MAX - 1, u32::MAX];
            let expected = keys.map(|key| (key, cores[key as usize % cores.len()] as usize));
            assert_eq!(cpus_of(&net, &witness, &keys)?, BTreeMap::from(expected), "{mode}");
            assert_eq!(loader.stats()?.redirected, keys.len() as u64);
        }
    }
    Ok(())
}

fn a_sparse_list_of_one_cpu() -> Result<()> {
    let last = *online_cpus().last().unwrap();
    for &target in targets() {
        let (net, witness, loader) = setup(&[last], |config| config.force_target(target))?;
        let cpus = cpus_of(&net, &witness, &[0, 1, 2, 3])?;
        assert!(cpus.len() == 4 && cpus.values().all(|&cpu| cpu == last as usize), "{cpus:?}");
        assert_eq!(loader.cpus(), [last]);
    }
    Ok(())
}

fn partitions_need_not_be_a_power_of_two() -> Result<()> {
    let cores = online_cpus();
    let partitions = 3 * cores.len() as u32;
    for &target in targets() {
        let (net, witness, loader) =
            setup(&cores, |config| config.partitions(partitions).force_target(target))?;
        // Moving the last partition shows the modulus: only its keys follow.
        loader.update_cpu_steering(partitions - 1, cores[0])?;
        let keys: Vec<u32> = (0..3 * partitions).collect();
        let expected = keys.iter().map(|&key| {
            let partition = key % partitions;
            let owner =
                if partition == partitions - 1 { 0 } else { partition as usize % cores.len() };
            (key, cores[owner] as usize)
        });
        assert_eq!(cpus_of(&net, &witness, &keys)?, expected.collect(), "{target}");
    }
    Ok(())
}

/// Bursts go on while the partition moves back and forth; each burst is
/// processed where the table said when it was sent, and none is lost.
fn moving_a_partition_under_traffic() -> Result<()> {
    const BURST: usize = 50;
    let cores = online_cpus();
    for &mode in steering_modes() {
        let (net, witness, loader) = setup(&cores, |config| config.attach_mode(mode))?;
        let sender = net.sending_socket()?;
        let (moved, still) = (5, 6);
        let owner_of_still = cores[still % cores.len()] as usize;
        for round in 0..20 {
            let owner = cores[round % cores.len()];
            loader.update_cpu_steering(moved, owner)?;
            for _ in 0..BURST {
                sender.send_to(&datagram(moved, b""), TestNet::destination(9999))?;
                sender.send_to(&datagram(still as u32, b""), TestNet::destination(9999))?;
            }
            let mut elsewhere = 0;
            let received = witness.receive(2 * BURST, |cpu, bytes| {
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

fn moves_that_make_no_sense_are_refused() -> Result<()> {
    let cores = online_cpus();
    let (net, witness, loader) = setup(&cores[..1], |config| config.partitions(8))?;
    let refused = |partition, cpu| loader.update_cpu_steering(partition, cpu).unwrap_err();
    // This CPU is online, but it has no queue.
    assert!(matches!(refused(0, cores[1]), XdpError::UnknownCpu { .. }));
    assert!(matches!(refused(0, u32::MAX), XdpError::UnknownCpu { .. }));
    assert!(matches!(refused(8, cores[0]), XdpError::UnknownPartition { partition: 8, .. }));
    let cpus = cpus_of(&net, &witness, &[0])?;
    assert_eq!(cpus[&0], cores[0] as usize, "a refused move changes nothing");
    Ok(())
}

/// With 4-byte values old kernels would lose what is redirected there, and the object
/// cannot tell on which it is; with multi-buffer programs new ones do. They filter, and
/// valid packets pass.
fn objects_that_never_steer_in_generic_mode() -> Result<()> {
    for &target in targets().iter().filter(|target| **target != "linux-5.9") {
        let (net, witness, loader) = setup(&online_cpus(), |config| {
            config.force_target(target).attach_mode(XdpAttachMode::Generic)
        })?;
        only_filters(&net, &witness, &loader)?;
        assert!(loader.selection().to_string().contains("filters without steering"));
    }
    Ok(())
}

fn only_filters(net: &TestNet, witness: &RxCpuSockets, loader: &XdpLoader) -> Result<()> {
    assert!(!loader.steers());
    assert!(matches!(loader.update_cpu_steering(0, 0), Err(XdpError::FilterOnly)));
    net.sending_socket()?.send_to(b"junk", TestNet::destination(9999))?;
    assert_eq!(cpus_of(net, witness, &[0, 1, 2])?.len(), 3, "valid packets pass");
    let stats = loader.stats()?;
    assert_eq!((stats.redirected, stats.passed_no_queue, stats.dropped), (0, 3, 1));
    Ok(())
}

/// Whatever object in whatever mode: it is refused, or it steers, or it filters, but
/// every valid packet arrives.
fn no_mode_loses_valid_packets() -> Result<()> {
    for &target in targets() {
        for mode in [XdpAttachMode::Native, XdpAttachMode::Generic] {
            let net = TestNet::new()?;
            let witness = net.receiver.enter(|| RxCpuSockets::bind(TestNet::destination(9999)))?;
            let config = config().force_target(target).attach_mode(mode).build()?;
            let loader = match load(&net, &config, &online_cpus()) {
                Ok(loader) => loader,
                Err(error) => {
                    // 8-byte values before Linux 5.15: the kernel itself refuses.
                    let generic = mode == XdpAttachMode::Generic;
                    assert!(generic && !steering_modes().contains(&mode), "{target}: {error}");
                    assert_eq!(target, "linux-5.9");
                    assert!(matches!(error, XdpError::Attach { .. }), "{error}");
                    assert!(!net.carries_xdp()?);
                    continue;
                }
            };
            match loader.steers() {
                true => {
                    assert_eq!(cpus_of(&net, &witness, &[0, 1, 2])?.len(), 3, "{target}, {mode}")
                }
                false => only_filters(&net, &witness, &loader)?,
            }
        }
    }
    Ok(())
}

/// Packets in several buffers: the largest that an MTU of 9000 takes arrive whole, on
/// the owner's CPU, and junk of that size is dropped.
fn jumbo_frames_in_native_mode() -> Result<()> {
    const LARGEST: usize = 9000 - 28 - 12;
    let cores = online_cpus();
    let net = TestNet::new()?;
    net.set_mtu(9000)?;
    let witness = net.receiver.enter(|| RxCpuSockets::bind(TestNet::destination(9999)))?;
    let native = config().attach_mode(XdpAttachMode::Native).build()?;
    if !kernel::has_multi_buffer() {
        let error = load(&net, &native, &cores).unwrap_err();
        assert!(error.to_string().contains("MTU"), "{error}");
        assert!(!net.carries_xdp()?);
        return Ok(());
    }
    let loader = load(&net, &native, &cores)?;
    assert!(loader.steers());
    let sender = net.sending_socket()?;
    for key in 0..8u32 {
        for length in [1, 3000, 4096, LARGEST] {
            let sent = datagram(key, &vec![key as u8; length]);
            sender.send_to(&sent, TestNet::destination(9999))?;
            sender.send_to(&vec![0; length + 12], TestNet::destination(9999))?;
            let mut intact = false;
            let received = witness.receive(1, |cpu, bytes| {
                let owner = cores[key as usize % cores.len()];
                intact = bytes == sent && cpu == owner as usize;
            })?;
            assert_eq!((received, intact), (1, true), "key {key}, {length} bytes");
        }
    }
    let stats = loader.stats()?;
    assert_eq!((stats.redirected, stats.dropped_magic, stats.total()), (32, 32, 64));
    Ok(())
}
