//! Opens the sockets of a group on one port.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::Arc;

use socket2::{Domain, Protocol, Socket, Type};

use crate::ingest::sockets::{classic_bpf, port_holder, receive_buffer};
use crate::report::XdpError;
use crate::sys::socket;

/// Binds a socket for each CPU in the calling thread's network namespace. Each socket has a
/// filter that drops everything until [`super::SocketGroup::open`] replaces the filter. If the
/// port is 0, the kernel chooses a port, and all sockets share that port.
pub fn bind(
    address: IpAddr,
    port: u16,
    cpus: &[u32],
    buffer: u32,
) -> Result<Vec<Arc<UdpSocket>>, XdpError> {
    let mut sockets: Vec<Arc<UdpSocket>> = Vec::new();
    let mut address = SocketAddr::new(address, port);
    for cpu in cpus {
        let (first, alone) = (sockets.is_empty(), cpus.len() == 1);
        let mut opened = open(address, buffer, first, alone);
        // The default address `::` means all addresses. Without IPv6 in the kernel, these are all
        // IPv4 addresses.
        if let Err(error) = &opened
            && error.raw_os_error() == Some(libc::EAFNOSUPPORT)
            && address.ip().is_unspecified()
        {
            address.set_ip(Ipv4Addr::UNSPECIFIED.into());
            opened = open(address, buffer, first, alone);
        }
        let socket = opened.map_err(|error| {
            let is_taken = error.raw_os_error() == Some(libc::EADDRINUSE);
            let holder = is_taken.then(|| port_holder::find(address.port())).flatten();
            match is_taken {
                true => XdpError::PortTaken { address, holder },
                false => explain(error, address, *cpu, cpus.len()),
            }
        })?;
        if let Ok(local) = socket.local_addr() {
            address.set_port(local.port());
        }
        sockets.push(Arc::new(socket));
    }
    if let Some(socket) = sockets.first() {
        warn_of_small_buffer(socket, buffer);
    }
    Ok(sockets)
}

fn open(address: SocketAddr, buffer: u32, first: bool, alone: bool) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    if address.is_ipv6() {
        // This makes `::` receive IPv4 and IPv6, even if `net.ipv6.bindv6only` is set.
        socket.set_only_v6(false)?;
    }
    if socket::force_receive_buffer(socket.as_fd(), buffer).is_err() {
        socket.set_recv_buffer_size(buffer as usize)?;
    }
    // Until a program selects the sockets, a datagram could arrive at the wrong CPU's socket. This
    // filter drops all datagrams until then.
    socket::set_classic_filter(socket.as_fd(), &classic_bpf::closed())?;
    // The first socket binds without SO_REUSEPORT, so that binding fails if another process holds
    // the port. Once that socket is bound, SO_REUSEPORT lets this process's other sockets share the
    // port.
    if !first {
        socket.set_reuse_port(true)?;
    }
    socket.bind(&address.into())?;
    if first && !alone {
        socket.set_reuse_port(true)?;
    }
    Ok(socket.into())
}

fn explain(error: io::Error, address: SocketAddr, cpu: u32, cpus: usize) -> XdpError {
    let errno = error.raw_os_error();
    let source = Arc::new(error);
    if matches!(errno, Some(libc::EMFILE | libc::ENFILE)) {
        return XdpError::TooManySockets { cpus, source };
    }
    let advice = match errno {
        Some(libc::EACCES) => {
            "ports below net.ipv4.ip_unprivileged_port_start need root or CAP_NET_BIND_SERVICE"
        }
        Some(libc::EADDRNOTAVAIL) => {
            "this machine does not have the address (`ip address` lists its addresses), or IPv6 \
             is switched off"
        }
        Some(libc::EAFNOSUPPORT) => "this kernel has no IPv6; use an IPv4 address",
        _ => "use another address; `::` means all addresses of this machine",
    };
    let action = format!("open the socket of CPU {cpu} on {address}");
    XdpError::Socket { action, advice, source }
}

fn warn_of_small_buffer(socket: &UdpSocket, wanted: u32) {
    let Ok(granted) = receive_buffer(socket) else { return };
    if granted < wanted {
        // Older kernels have this file only in the initial network namespace.
        let limit = fs::read_to_string("/proc/sys/net/core/rmem_max").ok();
        tracing::warn!(
            wanted,
            granted,
            limit = limit.as_deref().map(str::trim),
            "receive buffers are smaller than configured; raise net.core.rmem_max, or grant \
             CAP_NET_ADMIN"
        );
    }
}
