//! Many datagrams in one system call.

use std::io;
use std::os::fd::AsRawFd;
use std::ptr;

/// Bytes of a datagram that are kept.
const ROOM: usize = 2048;

/// Room for the datagrams that one `recvmmsg` takes.
pub struct Batch {
    headers: Vec<libc::mmsghdr>,
    // What the headers point to; these never grow, so they stay where they are.
    _parts: Vec<libc::iovec>,
    buffers: Vec<[u8; ROOM]>,
}

impl Batch {
    /// Room for so many datagrams.
    pub fn new(datagrams: usize) -> Batch {
        let mut buffers = vec![[0; ROOM]; datagrams];
        let part = |buffer: &mut [u8; ROOM]| libc::iovec {
            iov_base: buffer.as_mut_ptr().cast(),
            iov_len: ROOM,
        };
        let mut parts: Vec<libc::iovec> = buffers.iter_mut().map(part).collect();
        let header = |part: &mut libc::iovec| {
            // SAFETY: a zeroed header is valid: nothing but null pointers and zeros.
            let mut header: libc::mmsghdr = unsafe { std::mem::zeroed() };
            header.msg_hdr.msg_iov = part;
            header.msg_hdr.msg_iovlen = 1;
            header
        };
        Batch { headers: parts.iter_mut().map(header).collect(), _parts: parts, buffers }
    }

    /// Waits for a datagram, as long as the socket's read timeout says, and takes it and
    /// those that are there already.
    pub fn receive(&mut self, socket: &impl AsRawFd) -> io::Result<impl Iterator<Item = &[u8]>> {
        let (fd, headers) = (socket.as_raw_fd(), self.headers.as_mut_ptr());
        let (count, flags) = (self.headers.len() as u32, libc::MSG_WAITFORONE);
        // SAFETY: the headers and what they point to outlive the call, and nothing else
        // uses the buffers meanwhile.
        let received = unsafe { libc::recvmmsg(fd, headers, count, flags as _, ptr::null_mut()) };
        let received = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
        let taken = self.headers[..received].iter().zip(&self.buffers);
        Ok(taken.map(|(header, buffer)| &buffer[..header.msg_len as usize]))
    }
}
