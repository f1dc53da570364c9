//! Many datagrams with one system call, and descriptors for another process.

use std::io;
use std::mem;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

/// Bytes for one datagram: more than UDP can carry.
const DATAGRAM: usize = 1 << 16;

/// Room for the datagrams that one call takes. Pages that no datagram reaches cost
/// nothing.
pub struct Batch {
    bytes: Vec<u8>,
    senders: Vec<libc::sockaddr_storage>,
    /// Bytes of each datagram that is there.
    lengths: Vec<usize>,
}

impl Batch {
    /// The most datagrams that one call takes.
    pub const SIZE: usize = 32;

    pub fn new() -> Batch {
        // SAFETY: a zeroed address is valid: of no family.
        let nobody: libc::sockaddr_storage = unsafe { mem::zeroed() };
        Batch {
            bytes: vec![0; Self::SIZE * DATAGRAM],
            senders: vec![nobody; Self::SIZE],
            lengths: Vec::with_capacity(Self::SIZE),
        }
    }

    /// Takes what waits in a socket, at most [`Batch::SIZE`] datagrams, in place of those
    /// before. `WouldBlock` if nothing waits.
    pub fn receive(&mut self, socket: BorrowedFd) -> io::Result<()> {
        self.lengths.clear();
        let mut buffers =
            [const { libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 } }; Self::SIZE];
        // SAFETY: a zeroed header is valid: null pointers and no lengths.
        let mut headers: [libc::mmsghdr; Self::SIZE] = unsafe { mem::zeroed() };
        let parts = self.bytes.chunks_exact_mut(DATAGRAM).zip(&mut self.senders);
        for ((bytes, sender), (buffer, header)) in parts.zip(buffers.iter_mut().zip(&mut headers)) {
            *buffer = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
            header.msg_hdr.msg_iov = buffer;
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_name = ptr::from_mut(sender).cast();
            header.msg_hdr.msg_namelen = size_of_val(sender) as libc::socklen_t;
        }
        // SAFETY: each header points to a buffer and an address of the stated sizes, which
        // outlive the call; no two share one.
        let answer = unsafe {
            let (flags, no_timeout) = (libc::MSG_DONTWAIT, ptr::null_mut());
            let (fd, count) = (socket.as_raw_fd(), Self::SIZE as libc::c_uint);
            libc::recvmmsg(fd, headers.as_mut_ptr(), count, flags as _, no_timeout)
        };
        let count = usize::try_from(answer).map_err(|_| io::Error::last_os_error())?;
        let lengths = headers.iter().take(count).map(|header| header.msg_len as usize);
        self.lengths.extend(lengths.map(|length| length.min(DATAGRAM)));
        Ok(())
    }

    /// How many datagrams are there.
    pub fn len(&self) -> usize {
        self.lengths.len()
    }

    /// One of the datagrams that are there, with its sender.
    pub fn get(&self, index: usize) -> Option<(SocketAddr, &[u8])> {
        let start = index * DATAGRAM;
        let bytes = self.bytes.get(start..start + self.lengths.get(index)?)?;
        Some((address(self.senders.get(index)?)?, bytes))
    }
}

fn address(storage: &libc::sockaddr_storage) -> Option<SocketAddr> {
    let start = ptr::from_ref(storage);
    match i32::from(storage.ss_family) {
        libc::AF_INET => {
            // SAFETY: the storage is large enough and aligned for any address, and any
            // bytes make one.
            let v4 = unsafe { &*start.cast::<libc::sockaddr_in>() };
            let ip = Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
            Some(SocketAddrV4::new(ip, u16::from_be(v4.sin_port)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: as above.
            let v6 = unsafe { &*start.cast::<libc::sockaddr_in6>() };
            let (port, flow) = (u16::from_be(v6.sin6_port), u32::from_be(v6.sin6_flowinfo));
            let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
            Some(SocketAddrV6::new(ip, port, flow, v6.sin6_scope_id).into())
        }
        _ => None,
    }
}

/// The most descriptors that one message carries; the kernel's limit is 253.
pub const MOST_DESCRIPTORS: usize = 64;

/// Room for the control message that carries them, aligned as its header has to be.
type Control = [u64; 64];

const fn control_size(descriptors: usize) -> usize {
    // SAFETY: arithmetic on lengths.
    unsafe { libc::CMSG_SPACE((descriptors * size_of::<i32>()) as u32) as usize }
}

const _: () = assert!(control_size(MOST_DESCRIPTORS) <= size_of::<Control>());

/// Sends one byte with descriptors over a Unix stream.
pub fn send_descriptors(socket: BorrowedFd, descriptors: &[BorrowedFd]) -> io::Result<()> {
    if descriptors.is_empty() || descriptors.len() > MOST_DESCRIPTORS {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let numbers: Vec<i32> = descriptors.iter().map(|descriptor| descriptor.as_raw_fd()).collect();
    let mut control: Control = [0; 64];
    let mut byte = 0u8;
    let mut buffer = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
    // SAFETY: a zeroed header is valid.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = &mut buffer;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = control_size(numbers.len()) as _;
    // SAFETY: the control buffer has room for one message with these descriptors, as
    // checked above and by the assertion; the header points into it.
    let sent = unsafe {
        let header = libc::CMSG_FIRSTHDR(&message);
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = libc::SCM_RIGHTS;
        (*header).cmsg_len = libc::CMSG_LEN(size_of_val(&numbers[..]) as u32) as _;
        let to = libc::CMSG_DATA(header).cast::<i32>();
        ptr::copy_nonoverlapping(numbers.as_ptr(), to, numbers.len());
        libc::sendmsg(socket.as_raw_fd(), &message, libc::MSG_NOSIGNAL)
    };
    if sent == 1 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Receives one byte and the descriptors that came with it.
pub fn receive_descriptors(socket: BorrowedFd) -> io::Result<Vec<OwnedFd>> {
    let mut control: Control = [0; 64];
    let mut byte = 0u8;
    let mut buffer = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
    // SAFETY: a zeroed header is valid.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = &mut buffer;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control) as _;
    // SAFETY: the header points to buffers of the stated sizes, which outlive the call.
    let received =
        unsafe { libc::recvmsg(socket.as_raw_fd(), &mut message, libc::MSG_CMSG_CLOEXEC) };
    let mut descriptors = Vec::new();
    // SAFETY: the kernel filled the control buffer and set its length; the macros walk
    // within it, and each descriptor in it is new and ours.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(&message);
        while received > 0 && !header.is_null() {
            if (*header).cmsg_level == libc::SOL_SOCKET && (*header).cmsg_type == libc::SCM_RIGHTS {
                let bytes = (*header).cmsg_len as usize - libc::CMSG_LEN(0) as usize;
                let from = libc::CMSG_DATA(header).cast::<i32>();
                for index in 0..bytes / size_of::<i32>() {
                    let number = from.add(index).read_unaligned();
                    descriptors.push(OwnedFd::from_raw_fd(number));
                }
            }
            header = libc::CMSG_NXTHDR(&message, header);
        }
    }
    match received {
        1 if message.msg_flags & libc::MSG_CTRUNC == 0 => Ok(descriptors),
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        1 => Err(io::ErrorKind::InvalidData.into()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    #[test]
    fn as_many_descriptors_as_go_into_a_message_arrive() {
        let (here, there) = UnixStream::pair().unwrap();
        for count in [1, MOST_DESCRIPTORS] {
            send_descriptors(here.as_fd(), &vec![there.as_fd(); count]).unwrap();
            let received = receive_descriptors(there.as_fd()).unwrap();
            assert_eq!(received.len(), count);
            // Each is the other end.
            for descriptor in received {
                io::Write::write_all(&mut UnixStream::from(descriptor), b"!").unwrap();
                let mut byte = [0];
                io::Read::read_exact(&mut &here, &mut byte).unwrap();
            }
        }
        for none in [0, MOST_DESCRIPTORS + 1] {
            send_descriptors(here.as_fd(), &vec![there.as_fd(); none]).unwrap_err();
        }
        drop(here);
        let error = receive_descriptors(there.as_fd()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
