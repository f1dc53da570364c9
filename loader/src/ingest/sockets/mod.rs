//! One UDP socket for each CPU, in one reuseport group. A program selects the socket by
//! partition, and a filter on each socket drops what XDP would drop.

mod bind;
pub mod classic_bpf;
mod port_holder;
pub mod selector;

use std::io;
use std::net::UdpSocket;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::{Arc, Mutex, MutexGuard};

use laminar_xdp_prebuilt::abi;

use crate::ingest::sockets::classic_bpf::ClassicPrograms;
use crate::ingest::sockets::selector::Selector;
use crate::object::{LoadedSockets, SocketSettings, read_counters, read_packets};
use crate::partitions::Partitions;
use crate::report::{Counters, XdpCounter, XdpError};
use crate::sync::lock;
use crate::sys::map::Map;
use crate::sys::socket;

pub use bind::bind;

/// The sockets, with the programs that select and filter.
#[derive(Debug)]
pub struct SocketGroup {
    sockets: Vec<Arc<UdpSocket>>,
    selector: Selector,
    /// In use only if the selector is classic BPF.
    classic_bpf: ClassicPrograms,
    drops: Mutex<Vec<Drops>>,
}

/// How many datagrams one socket dropped. The kernel's own counter has 32 bits and wraps around.
/// `last` is the latest value of the kernel's counter, and `total` is the sum of the counter's
/// increases.
#[derive(Debug, Clone, Copy)]
struct Drops {
    last: u32,
    total: u64,
}

/// The counters of all sockets.
#[derive(Debug, Default)]
pub struct SocketCounts {
    /// Datagrams by reason. `None` with classic BPF, which cannot count.
    pub by_reason: Option<Counters>,
    /// The number of datagrams that the sockets dropped for any reason.
    pub dropped: u64,
}

impl SocketGroup {
    /// Installs the selector and the filters. Before, the sockets have filters that drop
    /// everything. The new filters replace these, so the sockets start to receive. The selector's
    /// table must already hold the owners.
    ///
    /// `drops_before` is for a hand-over: for each socket, the kernel's count of drops when the
    /// other process started counting. With `None`, counting starts now.
    pub fn open(
        sockets: Vec<Arc<UdpSocket>>,
        selector: Selector,
        settings: &abi::laminar_settings,
        partitions: &Partitions,
        drops_before: Option<Vec<u32>>,
    ) -> Result<SocketGroup, XdpError> {
        let is_taken_over = drops_before.is_some();
        let before = drops_before.unwrap_or_else(|| vec![0; sockets.len()]);
        let drops = before.into_iter().map(|last| Drops { last, total: 0 }).collect();
        let cpus = partitions.cpus().len() as u32;
        let classic_bpf = ClassicPrograms::new(cpus, SocketSettings::new(settings));
        let group = SocketGroup { sockets, selector, classic_bpf, drops: Mutex::new(drops) };
        let open = || {
            if !is_taken_over {
                group.reset_drops()?;
                group.fill_map(partitions)?;
            }
            // Linux 6.18 crashes if a classic selector is replaced under traffic: the kernel frees
            // the old selector while packets still run through it. Keep the old selector after a
            // hand-over; a new classic selector would be identical.
            if !is_taken_over || group.loaded().is_some() {
                group.install_selector()?;
            }
            group.install_filters()
        };
        open().map_err(|error| XdpError::socket("select sockets by partition", error))?;
        Ok(group)
    }

    /// Installs this group's programs again, after another process has replaced them.
    pub fn reinstate(&self) -> io::Result<()> {
        if self.loaded().is_some() {
            self.install_selector()?;
        }
        self.install_filters()
    }

    pub fn sockets(&self) -> &[Arc<UdpSocket>] {
        &self.sockets
    }

    /// The port that all sockets share.
    pub fn port(&self) -> io::Result<u16> {
        Ok(self.sockets[0].local_addr()?.port())
    }

    /// Why classic BPF selects the sockets; `None` if a loaded eBPF program selects them.
    pub fn classic_bpf_reason(&self) -> Option<&str> {
        match &self.selector {
            Selector::Loaded(_) => None,
            Selector::ClassicBpf(reason) => Some(reason),
        }
    }

    /// The loaded programs, unless classic BPF is in use.
    pub fn loaded(&self) -> Option<&LoadedSockets> {
        match &self.selector {
            Selector::Loaded(loaded) => Some(loaded),
            Selector::ClassicBpf(_) => None,
        }
    }

    /// The table of owners, which the XDP program uses as well; `None` with classic BPF.
    pub fn table(&self) -> Option<&Map> {
        self.loaded().map(|loaded| &loaded.steering)
    }

    /// For each socket, the kernel's count of drops when this group started counting.
    pub fn drops_before(&self) -> Vec<u32> {
        self.drops().iter().map(|drops| drops.last.wrapping_sub(drops.total as u32)).collect()
    }

    /// Reads the counters.
    pub fn counts(&self) -> io::Result<SocketCounts> {
        let mut counts = SocketCounts::default();
        for (drops, socket) in self.drops().iter_mut().zip(&self.sockets) {
            let now = socket::drops(socket.as_fd())?;
            drops.total += u64::from(now.wrapping_sub(drops.last));
            drops.last = now;
            counts.dropped += drops.total;
        }
        // Read the reasons after the drops. Every drop by a filter that is in `dropped` is then
        // also counted by reason.
        counts.by_reason = self.loaded().map(|loaded| read_packets(&loaded.stats)).transpose()?;
        Ok(counts)
    }

    /// The filters' counters for each reason and CPU; empty with classic BPF.
    pub fn counters(&self) -> io::Result<Vec<XdpCounter>> {
        let counters = self.loaded().map(|loaded| read_counters(&loaded.stats, None));
        Ok(counters.transpose()?.unwrap_or_default())
    }

    fn reset_drops(&self) -> io::Result<()> {
        for (drops, socket) in self.drops().iter_mut().zip(&self.sockets) {
            drops.last = socket::drops(socket.as_fd())?;
        }
        Ok(())
    }

    /// Puts the sockets into the selector's map.
    fn fill_map(&self, partitions: &Partitions) -> io::Result<()> {
        // A single socket is not in a reuseport group, and the map refuses such a socket.
        let (Some(loaded), [_, _, ..]) = (self.loaded(), &self.sockets[..]) else {
            return Ok(());
        };
        partitions.cpus().iter().zip(&self.sockets).try_for_each(|(cpu, socket)| {
            loaded.sockets.update(*cpu, &socket.as_raw_fd().to_ne_bytes())
        })
    }

    /// Installs the selector of the group. A single socket is in no group and needs no selector.
    fn install_selector(&self) -> io::Result<()> {
        let [first, _, ..] = &self.sockets[..] else { return Ok(()) };
        match &self.selector {
            Selector::Loaded(loaded) => socket::set_selection(first.as_fd(), &loaded.select),
            Selector::ClassicBpf(_) => {
                socket::set_classic_selection(first.as_fd(), &self.classic_bpf.selector)
            }
        }
    }

    fn install_filters(&self) -> io::Result<()> {
        self.sockets.iter().try_for_each(|socket| match &self.selector {
            Selector::Loaded(loaded) => socket::set_filter(socket.as_fd(), &loaded.filter),
            Selector::ClassicBpf(_) => {
                socket::set_classic_filter(socket.as_fd(), &self.classic_bpf.filter)
            }
        })
    }

    fn drops(&self) -> MutexGuard<'_, Vec<Drops>> {
        lock(&self.drops)
    }
}

/// The size of a socket's receive buffer in bytes, as a request with `SO_RCVBUF` states it. The
/// kernel doubles each requested size, so this is half of the size that the kernel reports.
pub fn receive_buffer(socket: &UdpSocket) -> io::Result<u32> {
    let bytes = socket2::SockRef::from(socket).recv_buffer_size()?;
    Ok((bytes / 2).try_into().unwrap_or(u32::MAX))
}
