//! recvmmsg(2): receives many datagrams with one system call.

use std::io;
use std::mem;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd};
use std::ptr;

/// The number of bytes reserved for one datagram. No UDP datagram is longer.
const DATAGRAM_SIZE: usize = 1 << 16;

/// Memory for the datagrams of one call. Pages that were never written use no memory.
pub struct Batch {
    bytes: Vec<u8>,
    senders: Vec<libc::sockaddr_storage>,
    /// The size in bytes of each datagram that was received.
    lengths: Vec<usize>,
}

impl Batch {
    /// The most datagrams that one call receives.
    pub const SIZE: usize = 32;

    /// Makes an empty batch.
    pub fn new() -> Batch {
        // SAFETY: `sockaddr_storage` is plain data for which zeros are valid: an address of
        // no family.
        let no_address: libc::sockaddr_storage = unsafe { mem::zeroed() };
        Batch {
            bytes: vec![0; Self::SIZE * DATAGRAM_SIZE],
            senders: vec![no_address; Self::SIZE],
            lengths: Vec::with_capacity(Self::SIZE),
        }
    }

    /// Replaces the content of this batch with datagrams that wait in a socket, at most
    /// [`Batch::SIZE`] of them. `WouldBlock` if no datagram waits, even on a blocking socket.
    pub fn receive(&mut self, socket: impl AsFd) -> io::Result<()> {
        self.lengths.clear();
        let mut buffers =
            [const { libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 } }; Self::SIZE];
        // SAFETY: `mmsghdr` is plain data for which zeros are valid: null pointers and no
        // lengths.
        let mut headers: [libc::mmsghdr; Self::SIZE] = unsafe { mem::zeroed() };
        let parts = self.bytes.chunks_exact_mut(DATAGRAM_SIZE).zip(&mut self.senders);
        for ((bytes, sender), (buffer, header)) in parts.zip(buffers.iter_mut().zip(&mut headers)) {
            *buffer = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
            header.msg_hdr.msg_iov = buffer;
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_name = ptr::from_mut(sender).cast();
            header.msg_hdr.msg_namelen = size_of_val(sender) as libc::socklen_t;
        }
        let (fd, count) = (socket.as_fd().as_raw_fd(), Self::SIZE as libc::c_uint);
        let (start, flags) = (headers.as_mut_ptr(), libc::MSG_DONTWAIT as _);
        // SAFETY: `fd` is open during the call. `start` points to `count` headers. Each header
        // points to one entry of `buffers` and one of `senders`. Each entry of `buffers` points
        // to its own part of `bytes`. All of them have the stated sizes. No two headers share
        // memory. All this memory outlives the call, and nothing else uses it meanwhile. The
        // timeout is null, which means none.
        let answer = unsafe { libc::recvmmsg(fd, start, count, flags, ptr::null_mut()) };
        let count = usize::try_from(answer).map_err(|_| io::Error::last_os_error())?;
        let lengths = headers.iter().take(count).map(|header| header.msg_len as usize);
        self.lengths.extend(lengths.map(|length| length.min(DATAGRAM_SIZE)));
        Ok(())
    }

    /// The number of datagrams that were received.
    pub fn len(&self) -> usize {
        self.lengths.len()
    }

    /// One of the received datagrams, with its sender.
    pub fn get(&self, index: usize) -> Option<(SocketAddr, &[u8])> {
        let start = index * DATAGRAM_SIZE;
        let bytes = self.bytes.get(start..start + self.lengths.get(index)?)?;
        Some((address(self.senders.get(index)?)?, bytes))
    }
}

fn address(storage: &libc::sockaddr_storage) -> Option<SocketAddr> {
    let start = ptr::from_ref(storage);
    match i32::from(storage.ss_family) {
        libc::AF_INET => {
            // SAFETY: `start` points to a `sockaddr_storage`, which has the size and alignment
            // for every address type. All its bytes are initialised, and any bytes are a valid
            // `sockaddr_in`.
            let v4 = unsafe { &*start.cast::<libc::sockaddr_in>() };
            let ip = Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
            Some(SocketAddrV4::new(ip, u16::from_be(v4.sin_port)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: `start` points to a `sockaddr_storage`, which has the size and alignment
            // for every address type. All its bytes are initialised, and any bytes are a valid
            // `sockaddr_in6`.
            let v6 = unsafe { &*start.cast::<libc::sockaddr_in6>() };
            let (port, flow) = (u16::from_be(v6.sin6_port), u32::from_be(v6.sin6_flowinfo));
            let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
            Some(SocketAddrV6::new(ip, port, flow, v6.sin6_scope_id).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;

    #[test]
    fn a_batch_takes_the_waiting_datagrams_with_their_senders() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let socket = UdpSocket::bind(address).unwrap();
            let to = socket.local_addr().unwrap();
            let mut batch = Batch::new();
            let error = batch.receive(&socket).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
            let sender = UdpSocket::bind(address).unwrap();
            for length in 0..=Batch::SIZE {
                sender.send_to(&vec![length as u8; length], to).unwrap();
            }
            batch.receive(&socket).unwrap();
            assert_eq!(batch.len(), Batch::SIZE);
            let from = sender.local_addr().unwrap();
            for length in 0..Batch::SIZE {
                assert_eq!(batch.get(length), Some((from, &vec![length as u8; length][..])));
            }
            assert_eq!(batch.get(Batch::SIZE), None);
            batch.receive(&socket).unwrap();
            assert_eq!(batch.len(), 1);
        }
    }
}
