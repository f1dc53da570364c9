//! A lock on an interface, for attachments without a bpf_link. The lock shows that the process that
//! attached a program is alive. When that process ends, the kernel releases the lock, while the
//! program stays on the interface.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use crate::ids::InterfaceIndex;

/// The lock is the name of an abstract Unix socket. In a network namespace only one socket can have
/// this name. Any process in the namespace can take the name. Such a process does no harm. While it
/// has the name, this library removes no leftover program, and attaches no program without a
/// bpf_link.
#[derive(Debug)]
pub struct OwnerLock {
    socket: UnixDatagram,
}

impl OwnerLock {
    /// Locks an interface of this thread's network namespace; `None` if another process holds the
    /// lock. A process that checks for a leftover program holds the lock for a moment, so this
    /// function retries for 100 ms.
    pub fn acquire(interface: InterfaceIndex) -> Option<OwnerLock> {
        let address = SocketAddr::from_abstract_name(OwnerLock::name(interface)).ok()?;
        (0..10).find_map(|_| match UnixDatagram::bind_addr(&address) {
            Ok(socket) => Some(OwnerLock { socket }),
            Err(_) => {
                std::thread::sleep(Duration::from_millis(10));
                None
            }
        })
    }

    /// The socket's name, without the leading zero byte.
    pub fn name(interface: InterfaceIndex) -> String {
        format!("laminar-xdp/attached-to-interface/{interface}")
    }

    /// Makes a lock from a descriptor that another process handed over. That process keeps its
    /// own descriptor of the same lock.
    pub fn from_descriptor(descriptor: OwnedFd) -> OwnerLock {
        OwnerLock { socket: descriptor.into() }
    }

    /// A second handle on the same lock.
    pub fn try_clone(&self) -> io::Result<OwnerLock> {
        Ok(OwnerLock { socket: self.socket.try_clone()? })
    }
}

impl AsFd for OwnerLock {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
