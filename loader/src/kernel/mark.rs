//! A sign that the owner of an attachment without a link lives. The kernel takes it away
//! with the process, however that ends, while the program stays on the interface.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// A name in the network namespace's abstract socket addresses. Anybody there may take
/// it: then a leftover is taken for somebody's and left alone, and nothing is attached
/// where that takes a mark.
#[derive(Debug)]
pub struct Mark {
    socket: UnixDatagram,
}

impl Mark {
    /// Marks an interface of this thread's network namespace; `None` if it is marked. A
    /// process that looks may hold it for a moment.
    pub fn set(interface: i32) -> Option<Mark> {
        let address = SocketAddr::from_abstract_name(Mark::name(interface)).ok()?;
        (0..10).find_map(|_| match UnixDatagram::bind_addr(&address) {
            Ok(socket) => Some(Mark { socket }),
            Err(_) => {
                std::thread::sleep(Duration::from_millis(10));
                None
            }
        })
    }

    /// The name, without the zero byte in front.
    pub fn name(interface: i32) -> String {
        format!("laminar-xdp/attached-to-interface/{interface}")
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
