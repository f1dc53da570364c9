//! The CPUs that own partitions, and the BPF map that tells the kernel which CPU owns each
//! partition.

use std::io;
use std::mem::offset_of;

use laminar_xdp_prebuilt::abi;

use crate::config::checks::check_cpu_list;
use crate::config::{ConfigError, XdpConfig};
use crate::ids::{CpuId, CpuIndex, Partition};
use crate::report::XdpError;
use crate::sys::cpus;
use crate::sys::map::Map;

/// The CPUs that own partitions, and the number of partitions.
#[derive(Debug)]
pub struct Partitions {
    cpus: Vec<u32>,
    count: u32,
}

impl Partitions {
    /// Checks that the CPUs are online, and computes the number of partitions if `wanted` is
    /// `None`.
    pub fn new(wanted: Option<u32>, cpus: &[u32]) -> Result<Partitions, XdpError> {
        check_cpus(cpus)?;
        // `check_cpus` allows fewer than 65,536 CPUs, so the number fits into 32 bits.
        let count = partition_count(wanted, cpus.len() as u32)?;
        Ok(Partitions { cpus: cpus.to_vec(), count })
    }

    /// The number of partitions.
    pub fn count(&self) -> u32 {
        self.count
    }

    pub fn all(&self) -> impl Iterator<Item = Partition> + use<> {
        (0..self.count).map(Partition::new)
    }

    pub fn cpus(&self) -> &[u32] {
        &self.cpus
    }

    /// The CPUs with their positions in the list of CPUs.
    pub fn indexed_cpus(&self) -> impl Iterator<Item = (CpuIndex, CpuId)> + '_ {
        (0..).map(CpuIndex::new).zip(self.cpus.iter().copied().map(CpuId::new))
    }

    /// The CPU at a position that [`Partitions::index_of`] returned.
    pub fn cpu(&self, index: CpuIndex) -> CpuId {
        CpuId::new(self.cpus[usize::from(index.get())])
    }

    /// The CPU that owns a partition until the partition moves for the first time.
    pub fn initial_owner(&self, partition: Partition) -> CpuIndex {
        CpuIndex::new((partition.get() % self.cpus.len() as u32) as u16)
    }

    /// The partition with this number.
    pub fn partition(&self, number: u32) -> Result<Partition, XdpError> {
        match number < self.count {
            true => Ok(Partition::new(number)),
            false => Err(XdpError::UnknownPartition { partition: number, partitions: self.count }),
        }
    }

    /// The position of a CPU in the list of CPUs.
    pub fn index_of(&self, cpu: u32) -> Result<CpuIndex, XdpError> {
        let position = self.cpus.iter().position(|other| *other == cpu);
        let unknown = || XdpError::UnknownCpu { cpu, cpus: self.cpus.clone() };
        position.map(|position| CpuIndex::new(position as u16)).ok_or_else(unknown)
    }

    /// The number of slots that a map needs if CPU ids are its keys.
    pub fn cpu_slots(&self) -> u32 {
        self.cpus.iter().max().map_or(1, |highest| highest + 1)
    }

    /// Creates the queue of each CPU.
    pub fn create_queues(&self, cpu_map: &Map, queue_size: u32) -> Result<(), XdpError> {
        let mut value = queue_size.to_ne_bytes().to_vec();
        // The second half of an 8-byte value is the descriptor of a program that runs on the CPU
        // of this queue. 0 means no program.
        value.resize(cpu_map.value_size(), 0);
        self.cpus.iter().try_for_each(|cpu| {
            cpu_map.update(*cpu, &value).map_err(|error| {
                let action = format!("create a queue of {queue_size} packets for CPU {cpu}");
                XdpError::kernel(action, error)
            })
        })
    }

    /// Writes the entry of each partition. A partition that already has an owner in the table keeps
    /// that owner, because sockets may already use the table. The other partitions get their
    /// initial owner. If `with_queues` is false, XDP passes valid packets, and only the sockets use
    /// the owners.
    pub fn fill_table(&self, table: &Map, with_queues: bool) -> Result<(), XdpError> {
        self.all().try_for_each(|partition| {
            let socket = match read_socket(table, partition)? {
                Some(socket) => socket,
                None => self.cpu(self.initial_owner(partition)),
            };
            let queue = with_queues.then_some(socket);
            write_entry(table, partition, TableEntry { queue, socket })
        })
    }
}

/// One partition's entry in the table, `struct laminar_owner`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TableEntry {
    /// The CPU to whose queue XDP redirects the partition's packets. If `None`, XDP passes these
    /// packets.
    pub queue: Option<CpuId>,
    /// The CPU whose socket receives the datagrams. Exception: if the kernel processes a
    /// datagram on the CPU of `queue`, that CPU's socket receives it.
    pub socket: CpuId,
}

/// Reads the CPU whose socket receives a partition's datagrams; `None` if the entry is empty.
fn read_socket(table: &Map, partition: Partition) -> Result<Option<CpuId>, XdpError> {
    let offset = offset_of!(abi::laminar_owner, socket);
    let entry = table.lookup(partition.get()).map_err(|error| {
        XdpError::kernel(format!("read the owner of partition {partition}"), error)
    })?;
    let socket = entry.get(offset..offset + 2).and_then(|bytes| bytes.try_into().ok());
    // The table stores the CPU's id plus 1, so that 0 means "no CPU".
    let id = socket.and_then(|bytes| u32::from(u16::from_ne_bytes(bytes)).checked_sub(1));
    Ok(id.map(CpuId::new))
}

/// Writes one entry. Programs read either the old or the new entry, never a mixture.
pub fn write_entry(table: &Map, partition: Partition, entry: TableEntry) -> Result<(), XdpError> {
    let field = |cpu: CpuId| (cpu.get() as u16 + 1).to_ne_bytes();
    let mut bytes = [0; size_of::<abi::laminar_owner>()];
    let queue = offset_of!(abi::laminar_owner, queue);
    let socket = offset_of!(abi::laminar_owner, socket);
    bytes[queue..queue + 2].copy_from_slice(&entry.queue.map_or([0; 2], field));
    bytes[socket..socket + 2].copy_from_slice(&field(entry.socket));
    table.update(partition.get(), &bytes).map_err(|error| {
        XdpError::kernel(format!("write the owner of partition {partition}"), error)
    })
}

/// Fails unless every CPU exists, is online and is listed once.
fn check_cpus(cpus: &[u32]) -> Result<(), XdpError> {
    let refuse = |problem: String| Err(ConfigError::new("cpus", problem).into());
    check_cpu_list(cpus)?;
    let possible = cpus::possible().map_err(|error| unreadable(cpus::POSSIBLE_PATH, error))?;
    let online = cpus::online().map_err(|error| unreadable(cpus::ONLINE_PATH, error))?;
    for &cpu in cpus {
        let id = CpuId::new(cpu);
        if !possible.contains(&id) {
            return refuse(format!("CPU {cpu} does not exist here; `lscpu -e` lists the CPUs"));
        }
        if !online.contains(&id) {
            return refuse(format!(
                "CPU {cpu} is offline; choose another, or write 1 to \
                 /sys/devices/system/cpu/cpu{cpu}/online"
            ));
        }
        if cpu >= u32::from(u16::MAX) {
            return refuse(format!("CPU {cpu} has an id above 65534; use CPUs with lower ids"));
        }
    }
    Ok(())
}

fn unreadable(path: &str, error: io::Error) -> XdpError {
    let problem = format!("cannot be checked, because {path} cannot be read: {error}");
    ConfigError::new("cpus", problem).into()
}

fn partition_count(wanted: Option<u32>, cpus: u32) -> Result<u32, ConfigError> {
    let partitions = wanted.unwrap_or(abi::LAMINAR_DEFAULT_PARTITIONS.next_multiple_of(cpus));
    if partitions.is_multiple_of(cpus) {
        return Ok(partitions);
    }
    let near = [partitions - partitions % cpus, partitions.next_multiple_of(cpus)];
    let allowed = near.into_iter().filter(|n| (1..=XdpConfig::MAX_PARTITIONS).contains(n));
    let allowed: Vec<_> = allowed.map(|partitions| partitions.to_string()).collect();
    let advice = allowed.join(" or ");
    let problem =
        format!("{partitions} is not a multiple of the number of CPUs, {cpus}; use {advice}");
    Err(ConfigError::new("partitions", problem))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_list_of_cpus_and_a_cpu_listed_twice_are_refused() {
        let error = |cpus: &[u32]| Partitions::new(None, cpus).unwrap_err().to_string();
        assert!(error(&[]).contains("no CPU is listed"), "{}", error(&[]));
        let twice = [u32::MAX, u32::MAX];
        assert!(error(&twice).contains("is listed twice"), "{}", error(&twice));
    }

    #[test]
    fn cpu_slots_reach_the_highest_id() {
        let slots = |cpus: &[u32]| Partitions { cpus: cpus.to_vec(), count: 64 }.cpu_slots();
        assert_eq!((slots(&[0]), slots(&[3, 96, 7]), slots(&[200, 0])), (1, 97, 201));
    }

    #[test]
    fn initial_owners_alternate() {
        let partitions = Partitions { cpus: vec![5, 7], count: 4 };
        let owners = partitions.all().map(|p| partitions.cpu(partitions.initial_owner(p)).get());
        assert_eq!(owners.collect::<Vec<_>>(), [5, 7, 5, 7]);
    }

    #[test]
    fn partitions_are_a_multiple_of_the_cpus() {
        assert_eq!(partition_count(None, 2).unwrap(), 64);
        assert_eq!(partition_count(None, 6).unwrap(), 66);
        assert_eq!(partition_count(None, 100).unwrap(), 100);
        assert_eq!(partition_count(Some(12), 6).unwrap(), 12);
        let text = partition_count(Some(64), 6).unwrap_err().to_string();
        assert!(text.contains("use 60 or 66"), "{text}");
        let text = partition_count(Some(65_536), 3).unwrap_err().to_string();
        assert!(text.ends_with("use 65535"), "{text}");
        let text = partition_count(Some(1), 2).unwrap_err().to_string();
        assert!(text.ends_with("use 2"), "{text}");
    }
}
