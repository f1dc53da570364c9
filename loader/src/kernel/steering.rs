//! Which CPU owns which partition, and the maps that make it so.

use std::fs;
use std::io;
use std::sync::atomic::{AtomicU32, Ordering};

use laminar_xdp_prebuilt::abi;

use crate::config::XdpConfig;
use crate::error::XdpError;
use crate::kernel::object::Map;

/// The CPUs in use and the partitions that they share.
#[derive(Debug)]
pub struct Steering {
    cores: Vec<u32>,
    /// For each partition the index of its owner in `cores`.
    owners: Vec<AtomicU32>,
}

impl Steering {
    /// Checks the cores against the machine and settles the number of
    /// partitions.
    pub fn new(config: &XdpConfig, cores: &[u32]) -> Result<Steering, XdpError> {
        let refuse = |problem| Err(XdpError::config("cores", problem));
        let Ok(core_count) = u32::try_from(cores.len()) else {
            return refuse("more cores than any machine has".into());
        };
        if core_count == 0 {
            return refuse(
                "no core was named; name the ids of the CPUs that own partitions".into(),
            );
        }
        let possible = cpu_list("possible")?;
        let online = cpu_list("online")?;
        for (i, &core) in cores.iter().enumerate() {
            if cores[..i].contains(&core) {
                return refuse(format!("CPU {core} is named twice; name each CPU once"));
            }
            if !contains(&possible, core) {
                return refuse(format!(
                    "CPU {core} does not exist here; `lscpu -e` lists the CPUs"
                ));
            }
            if !contains(&online, core) {
                return refuse(format!(
                    "CPU {core} is offline; choose another, or write 1 to \
                     /sys/devices/system/cpu/cpu{core}/online"
                ));
            }
        }
        if let Some(core) = cores.iter().find(|core| **core >= u32::from(u16::MAX)) {
            return refuse(format!("CPU {core} is beyond what a steering table can name"));
        }
        Ok(Self::with_default_owners(cores, partitions(config.partitions, core_count)?))
    }

    fn with_default_owners(cores: &[u32], partitions: u32) -> Steering {
        let owner = |partition| AtomicU32::new(partition % cores.len() as u32);
        Steering { cores: cores.to_vec(), owners: (0..partitions).map(owner).collect() }
    }

    pub fn partitions(&self) -> u32 {
        self.owners.len() as u32
    }

    pub fn cores(&self) -> &[u32] {
        &self.cores
    }

    /// The slots that the CPU map needs: it is keyed by CPU id.
    pub fn cpu_slots(&self) -> u32 {
        self.cores.iter().max().map_or(1, |highest| highest + 1)
    }

    /// Gives each CPU its queue.
    pub fn create_queues(&self, cpu_map: &Map, queue_size: u32) -> Result<(), XdpError> {
        // The second half of an 8-byte value is a second-stage program: none.
        let mut value = queue_size.to_ne_bytes().to_vec();
        value.resize(cpu_map.value_size(), 0);
        for &core in &self.cores {
            cpu_map.update(core, &value).map_err(|reason| XdpError::Kernel {
                action: format!("create a queue of {queue_size} packets for CPU {core}"),
                reason,
            })?;
        }
        Ok(())
    }

    /// The index in [`Steering::cores`] of a partition's owner.
    pub fn owner(&self, partition: u32) -> usize {
        self.owners
            .get(partition as usize)
            .map_or(0, |owner| owner.load(Ordering::Relaxed) as usize)
    }

    /// The owner of each partition, likewise.
    pub fn owners(&self) -> Vec<usize> {
        (0..self.partitions()).map(|partition| self.owner(partition)).collect()
    }

    /// Notes a partition's new owner, which the tables have already.
    pub fn set_owner(&self, partition: u32, core_index: usize) {
        if let Some(owner) = self.owners.get(partition as usize) {
            owner.store(core_index as u32, Ordering::Relaxed);
        }
    }

    /// Writes every partition's owner, unless the table has one already: sockets may be at
    /// work with it. Without queues valid packets pass XDP, and their owners are the
    /// sockets' business alone.
    pub fn write_all(&self, table: &Map, queues: bool) -> Result<(), XdpError> {
        (0..self.partitions()).try_for_each(|partition| {
            let socket = match read(table, partition)? {
                Some(socket) => socket,
                None => self.cores[self.owner(partition)],
            };
            write(table, partition, Owner { queue: queues.then_some(socket), socket })
        })
    }

    /// Gives the index of a CPU that a partition is to move to.
    pub fn check_move(&self, partition: u32, core: u32) -> Result<usize, XdpError> {
        if partition >= self.partitions() {
            return Err(XdpError::config(
                "partition",
                format!("{partition} does not exist, there are {} of them", self.partitions()),
            ));
        }
        self.cores.iter().position(|other| *other == core).ok_or_else(|| {
            let problem =
                format!("CPU {core} owns no partitions; it must be one of {:?}", self.cores);
            XdpError::config("cpu", problem)
        })
    }
}

/// An entry of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// The CPU whose queue XDP hands a partition's packets to.
    pub queue: Option<u32>,
    /// The CPU whose socket receives them, unless they come out of that queue.
    pub socket: u32,
}

/// The CPU whose socket receives a partition, if the table says so.
fn read(table: &Map, partition: u32) -> Result<Option<u32>, XdpError> {
    let at = std::mem::offset_of!(abi::laminar_owner, socket);
    let entry = table.lookup(partition).map_err(|reason| XdpError::Kernel {
        action: format!("read the owner of partition {partition}"),
        reason,
    })?;
    let socket = entry.get(at..at + 2).and_then(|bytes| bytes.try_into().ok());
    Ok(socket.and_then(|bytes| u32::from(u16::from_ne_bytes(bytes)).checked_sub(1)))
}

/// Writes one entry, in one step.
pub fn write(table: &Map, partition: u32, owner: Owner) -> Result<(), XdpError> {
    let Owner { queue, socket } = owner;
    let entry = |core: u32| (core as u16 + 1).to_ne_bytes();
    let mut owner = [0; size_of::<abi::laminar_owner>()];
    let (queue_at, socket_at) = (
        std::mem::offset_of!(abi::laminar_owner, queue),
        std::mem::offset_of!(abi::laminar_owner, socket),
    );
    owner[queue_at..queue_at + 2].copy_from_slice(&queue.map_or([0; 2], entry));
    owner[socket_at..socket_at + 2].copy_from_slice(&entry(socket));
    table.update(partition, &owner).map_err(|reason| XdpError::Kernel {
        action: format!("write the owner of partition {partition}"),
        reason,
    })
}

fn partitions(wanted: Option<u32>, cores: u32) -> Result<u32, XdpError> {
    let partitions = wanted.unwrap_or(abi::LAMINAR_DEFAULT_PARTITIONS.next_multiple_of(cores));
    if partitions.is_multiple_of(cores) {
        return Ok(partitions);
    }
    let near = [partitions - partitions % cores, partitions.next_multiple_of(cores)];
    let allowed = near.into_iter().filter(|n| (1..=XdpConfig::MAX_PARTITIONS).contains(n));
    let allowed: Vec<_> = allowed.map(|partitions| partitions.to_string()).collect();
    let advice = format!("use {}", allowed.join(" or "));
    Err(XdpError::config(
        "partitions",
        format!("{partitions} is not a multiple of the number of cores, {cores}; {advice}"),
    ))
}

/// Whether a CPU is online; true where the kernel does not say.
pub fn is_online(core: u32) -> bool {
    cpu_list("online").map_or(true, |online| contains(&online, core))
}

/// One of the kernel's CPU lists, such as `0-3,8`, as inclusive ranges.
fn cpu_list(name: &str) -> Result<Vec<(u32, u32)>, XdpError> {
    read_cpu_list(name).map_err(|error| {
        let path = path_of(name);
        XdpError::config(
            "cores",
            format!("cannot be checked, because {path} cannot be read: {error}"),
        )
    })
}

/// The ids of all CPUs that this machine can have, in the order in which the kernel gives
/// what it has for each.
pub fn possible_cpus() -> io::Result<Vec<u32>> {
    Ok(read_cpu_list("possible")?.into_iter().flat_map(|(first, last)| first..=last).collect())
}

fn read_cpu_list(name: &str) -> io::Result<Vec<(u32, u32)>> {
    let text = fs::read_to_string(path_of(name))?;
    parse_cpu_list(&text).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

fn path_of(name: &str) -> String {
    format!("/sys/devices/system/cpu/{name}")
}

fn parse_cpu_list(text: &str) -> Option<Vec<(u32, u32)>> {
    let ranges = text.trim().split(',').filter(|range| !range.is_empty());
    let parsed = ranges.map(|range| match range.split_once('-') {
        Some((first, last)) => Some((first.parse().ok()?, last.parse().ok()?)),
        None => range.parse().ok().map(|cpu| (cpu, cpu)),
    });
    parsed.collect()
}

fn contains(list: &[(u32, u32)], cpu: u32) -> bool {
    list.iter().any(|&(first, last)| (first..=last).contains(&cpu))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_lists_are_read_as_the_kernel_writes_them() {
        assert_eq!(parse_cpu_list("0-3,8,10-11\n"), Some(vec![(0, 3), (8, 8), (10, 11)]));
        assert_eq!(parse_cpu_list("\n"), Some(vec![]));
        assert_eq!(parse_cpu_list("0-x\n"), None);
        let list = parse_cpu_list("0-3,96\n").unwrap();
        assert!(contains(&list, 3) && contains(&list, 96) && !contains(&list, 4));
    }

    #[test]
    fn the_cpu_map_reaches_the_highest_id() {
        let slots = |cores: &[u32]| Steering::with_default_owners(cores, 64).cpu_slots();
        assert_eq!((slots(&[0]), slots(&[3, 96, 7]), slots(&[200, 0])), (1, 97, 201));
    }

    #[test]
    fn partitions_are_a_multiple_of_the_cores() {
        assert_eq!(partitions(None, 2).unwrap(), 64);
        assert_eq!(partitions(None, 6).unwrap(), 66);
        assert_eq!(partitions(None, 100).unwrap(), 100);
        assert_eq!(partitions(Some(12), 6).unwrap(), 12);
        let text = partitions(Some(64), 6).unwrap_err().to_string();
        assert!(text.contains("use 60 or 66"), "{text}");
        let text = partitions(Some(65_536), 3).unwrap_err().to_string();
        assert!(text.ends_with("use 65535"), "{text}");
        let text = partitions(Some(1), 2).unwrap_err().to_string();
        assert!(text.ends_with("use 2"), "{text}");
    }
}
