//! A sign that the owner of an attachment without a link lives. The kernel takes it away
//! with the process, however that ends, while the program stays on the interface.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// A name in the network namespace's abstract socket addresses. Anybody there may take
/// it; all that comes of it is that a leftover is taken for somebody's and left alone.
#[derive(Debug)]
pub struct Mark {
    socket: UnixDatagram,
}

impl Mark {
    /// Marks an interface of this thread's network namespace; `None` if it is marked. A
    /// process that looks may hold it for a moment.
    pub fn set(interface: i32) -> Option<Mark> {
        let name = format!("laminar-xdp/attached-to-interface/{interface}");
        let address = SocketAddr::from_abstract_name(name).ok()?;
        (0..10).find_map(|_| match UnixDatagram::bind_addr(&address) {
            Ok(socket) => Some(Mark { socket }),
            Err(_) => {
                std::thread::sleep(Duration::from_millis(10));
                None
            }
        })
    }

    /// The mark that another process set, which keeps it as well.
    pub fn of(descriptor: OwnedFd) -> Mark {
        Mark { socket: descriptor.into() }
    }

    /// The same mark, to be kept by another value.
    pub fn try_clone(&self) -> io::Result<Mark> {
        Ok(Mark { socket: self.socket.try_clone()? })
    }
}

impl AsFd for Mark {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
