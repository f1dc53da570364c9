//! A lock that shows that the owner of an attachment without a bpf_link is alive. The
//! kernel releases it when the process ends, while the program stays on the interface.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use crate::ids::InterfaceIndex;

/// A name among the abstract Unix sockets of the network namespace. Any process there
/// can take the name. The effect is safe: a leftover program is then left alone, and
/// nothing is attached where that needs the lock.
#[derive(Debug)]
pub struct OwnerLock {
    socket: UnixDatagram,
}

impl OwnerLock {
    /// Locks an interface of this thread's network namespace; `None` if another process
    /// holds the lock. A process that only looks may hold it for a moment, so this
    /// retries for 100 ms.
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

    /// The lock of another process, which handed this descriptor over and keeps its own.
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
