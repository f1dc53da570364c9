//! One UDP socket for each core, in one group from which a program chooses by the
//! partition, and a filter on each that drops what XDP would.

pub mod classic;
mod port;

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::{Arc, Mutex, PoisonError};

use laminar_xdp_prebuilt::abi;
use socket2::{Domain, Protocol, Socket, Type};

use crate::error::XdpError;
use crate::kernel::libbpf::socket;
use crate::kernel::object::{LoadedForSockets, Map};
use crate::kernel::steering::Steering;

/// The sockets with what chooses among them.
#[derive(Debug)]
pub struct Group {
    sockets: Vec<Arc<UdpSocket>>,
    selection: Selection,
    drops: Mutex<Vec<Drops>>,
}

/// What chooses the socket and filters.
#[derive(Debug)]
pub enum Selection {
    /// A loaded object; its table is XDP's where XDP steers.
    Object(Box<LoadedForSockets>),
    /// Classic BPF, for this reason.
    Classic(String),
}

/// A socket's drops; the kernel's own counter wraps around.
#[derive(Debug, Clone, Copy)]
struct Drops {
    last: u32,
    total: u64,
}

/// What the sockets' layer counted.
#[derive(Debug, Default)]
pub struct Counts {
    /// By reason; `None` where no object counts.
    pub by_reason: Option<[u64; abi::LAMINAR_REASON_COUNT as usize]>,
    /// Whatever the sockets did not take.
    pub dropped: u64,
}

/// Twice as much is the most that the kernel can count.
const MOST_BUFFERED: u32 = 1 << 30;

/// Binds a socket for each core, all of them closed, in the calling thread's network
/// namespace.
pub fn bind(
    address: IpAddr,
    port: u16,
    cores: &[u32],
    receive_buffer: u32,
) -> Result<Vec<Arc<UdpSocket>>, XdpError> {
    if !(1..=MOST_BUFFERED).contains(&receive_buffer) {
        return Err(XdpError::config(
            "receive_buffer",
            format!("{receive_buffer} bytes cannot be had: 1 to {MOST_BUFFERED}"),
        ));
    }
    let mut sockets = Vec::new();
    let mut address = SocketAddr::new(address, port);
    for core in cores {
        let (first, alone) = (sockets.is_empty(), cores.len() == 1);
        let made = make(address, receive_buffer, first, alone);
        let made = match made {
            // No IPv6 in this kernel, where it was not asked for by name.
            Err(error)
                if error.raw_os_error() == Some(libc::EAFNOSUPPORT)
                    && address.ip().is_unspecified() =>
            {
                address.set_ip(Ipv4Addr::UNSPECIFIED.into());
                make(address, receive_buffer, first, alone)
            }
            made => made,
        };
        sockets.push(Arc::new(made.map_err(|error| explain(error, address, *core, cores.len()))?));
    }
    if let Some(socket) = sockets.first() {
        report_buffer(socket, receive_buffer);
    }
    Ok(sockets)
}

fn make(
    address: SocketAddr,
    receive_buffer: u32,
    first: bool,
    alone: bool,
) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    if address.is_ipv6() {
        // Whatever the system's default is: the unspecified address means both families.
        socket.set_only_v6(false)?;
    }
    if socket::force_receive_buffer(socket.as_fd(), receive_buffer).is_err() {
        socket.set_recv_buffer_size(receive_buffer as usize)?;
    }
    // Before anything is chosen, nothing may arrive at the wrong place.
    socket::set_classic_filter(socket.as_fd(), &mut classic::closed())?;
    // The first one takes the port for itself, which fails if anybody has it, and only
    // then lets the others in.
    if !first {
        socket.set_reuse_port(true)?;
    }
    socket.bind(&address.into())?;
    if first && !alone {
        socket.set_reuse_port(true)?;
    }
    Ok(socket.into())
}

fn explain(error: io::Error, address: SocketAddr, core: u32, cores: usize) -> XdpError {
    match error.raw_os_error() {
        Some(libc::EADDRINUSE) => {
            XdpError::PortTaken { address, holder: port::holder(address.port()) }
        }
        Some(libc::EMFILE | libc::ENFILE) => XdpError::TooManySockets { cores, reason: error },
        errno => {
            let action = format!("open the socket of CPU {core} on {address}");
            let advice = match errno {
                Some(libc::EACCES) => {
                    "ports below net.ipv4.ip_unprivileged_port_start take root or \
                     CAP_NET_BIND_SERVICE"
                }
                Some(libc::EADDRNOTAVAIL) => {
                    "it is no address of this machine (`ip address` lists those), or IPv6 is \
                     switched off"
                }
                Some(libc::EAFNOSUPPORT) => "this kernel has no IPv6; use an IPv4 address",
                _ => "use another address; `::` stands for all of them",
            };
            XdpError::Socket { action, reason: error, advice }
        }
    }
}

/// The buffer that a socket has, in bytes as they are asked for: the kernel doubles them
/// for its own bookkeeping.
pub fn receive_buffer(socket: &UdpSocket) -> io::Result<u32> {
    let bytes = socket2::SockRef::from(socket).recv_buffer_size()?;
    Ok((bytes / 2).try_into().unwrap_or(u32::MAX))
}

fn report_buffer(socket: &UdpSocket, wanted: u32) {
    let Ok(granted) = receive_buffer(socket) else { return };
    if granted < wanted {
        // Older kernels show it in the first network namespace only.
        let limit = fs::read_to_string("/proc/sys/net/core/rmem_max").ok();
        tracing::warn!(
            wanted,
            granted,
            limit = limit.as_deref().map(str::trim),
            "receive buffers are smaller than asked for: raise net.core.rmem_max, or grant \
             CAP_NET_ADMIN"
        );
    }
}

impl Group {
    /// Has the sockets chosen and filtered by a loaded object, or by classic BPF, and so
    /// opens them; whatever did that before is replaced. `steering` holds the owners; an
    /// object's table has to have them. Drops are counted from here on, or, for sockets of
    /// the process before, from where its were.
    pub fn open(
        sockets: Vec<Arc<UdpSocket>>,
        selection: Selection,
        steering: &Steering,
        drops_before: Option<Vec<u32>>,
    ) -> Result<Group, XdpError> {
        let inherited = drops_before.is_some();
        let before = drops_before.unwrap_or_else(|| vec![0; sockets.len()]);
        let drops = before.into_iter().map(|last| Drops { last, total: 0 }).collect();
        let group = Group { sockets, selection, drops: Mutex::new(drops) };
        let open = || {
            if !inherited {
                group.forget_drops()?;
                group.fill_map(steering)?;
            }
            // Seen on 6.18: a classic program that is replaced while packets come is freed
            // under them, and the kernel crashes. The one that is there does the same.
            if !inherited || group.object().is_some() {
                group.select(steering)?;
            }
            group.filter()
        };
        open()
            .map_err(|reason| XdpError::socket("have the sockets chosen by partition", reason))?;
        Ok(group)
    }

    /// Puts this group's programs back in their place.
    pub fn reclaim(&self, steering: &Steering) -> io::Result<()> {
        if self.object().is_some() {
            self.select(steering)?;
        }
        self.filter()
    }

    /// Puts the sockets into the object's map.
    fn fill_map(&self, steering: &Steering) -> io::Result<()> {
        let (Some(object), true) = (self.object(), self.sockets.len() > 1) else { return Ok(()) };
        let mut pairs = steering.cores().iter().zip(&self.sockets);
        pairs.try_for_each(|(core, socket)| {
            object.sockets.update(*core, &socket.as_raw_fd().to_ne_bytes())
        })
    }

    fn forget_drops(&self) -> io::Result<()> {
        let mut drops = self.drops.lock().unwrap_or_else(PoisonError::into_inner);
        for (drops, socket) in drops.iter_mut().zip(&self.sockets) {
            drops.last = socket::drops(socket.as_fd())?;
        }
        Ok(())
    }

    /// The kernel's count of each socket's drops at which this group's begins.
    pub fn drops_before(&self) -> Vec<u32> {
        let drops = self.drops.lock().unwrap_or_else(PoisonError::into_inner);
        drops.iter().map(|drops| drops.last.wrapping_sub(drops.total as u32)).collect()
    }

    pub fn sockets(&self) -> &[Arc<UdpSocket>] {
        &self.sockets
    }

    /// Why classic BPF chooses; `None` where an object does.
    pub fn classic_reason(&self) -> Option<&str> {
        match &self.selection {
            Selection::Object(_) => None,
            Selection::Classic(reason) => Some(reason),
        }
    }

    /// The object that chooses, if one does.
    pub fn object(&self) -> Option<&LoadedForSockets> {
        match &self.selection {
            Selection::Object(object) => Some(object),
            Selection::Classic(_) => None,
        }
    }

    /// The table of owners, where an object has one; XDP may use it too.
    pub fn table(&self) -> Option<&Map> {
        self.object().map(|object| &object.steering)
    }

    /// Has the group's program choose. A single socket is no group and needs none.
    fn select(&self, steering: &Steering) -> io::Result<()> {
        let [first, _, ..] = &self.sockets[..] else { return Ok(()) };
        match &self.selection {
            Selection::Object(object) => socket::set_selection(first.as_fd(), &object.select),
            Selection::Classic(_) => {
                let cores = steering.cores().len() as u32;
                let mut code = classic::selection(cores, steering.partitions());
                socket::set_classic_selection(first.as_fd(), &mut code)
            }
        }
    }

    fn filter(&self) -> io::Result<()> {
        self.sockets.iter().try_for_each(|socket| match &self.selection {
            Selection::Object(object) => socket::set_filter(socket.as_fd(), &object.filter),
            Selection::Classic(_) => {
                socket::set_classic_filter(socket.as_fd(), &mut classic::filter())
            }
        })
    }

    /// Reads what was counted.
    pub fn counts(&self) -> io::Result<Counts> {
        let mut drops = self.drops.lock().unwrap_or_else(PoisonError::into_inner);
        let mut counts = Counts::default();
        for (drops, socket) in drops.iter_mut().zip(&self.sockets) {
            let now = socket::drops(socket.as_fd())?;
            drops.total += u64::from(now.wrapping_sub(drops.last));
            drops.last = now;
            counts.dropped += drops.total;
        }
        // After the drops: a filter's counter that is read later is never behind them.
        if let Selection::Object(object) = &self.selection {
            let mut by_reason = [0; abi::LAMINAR_REASON_COUNT as usize];
            for (reason, count) in (0..).zip(&mut by_reason) {
                *count =
                    object.stats.lookup_per_cpu(reason)?.iter().map(|[packets, _]| packets).sum();
            }
            counts.by_reason = Some(by_reason);
        }
        Ok(counts)
    }
}
