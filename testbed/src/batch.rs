//! Receiving many datagrams in one system call.

use std::io;
use std::os::fd::AsRawFd;
use std::ptr;

/// The size of one buffer in bytes. The kernel truncates longer datagrams.
const BUFFER_SIZE: usize = 2048;

/// Buffers for the datagrams of one `recvmmsg` call.
pub struct Batch {
    headers: Vec<libc::mmsghdr>,
    // `headers` points into `_parts`, and `_parts` points into `buffers`. Neither vector
    // grows, so the pointers stay valid.
    _parts: Vec<libc::iovec>,
    buffers: Vec<[u8; BUFFER_SIZE]>,
}

impl Batch {
    /// Allocates buffers for up to `datagrams` datagrams.
    pub fn new(datagrams: usize) -> Batch {
        let mut buffers = vec![[0; BUFFER_SIZE]; datagrams];
        let part = |buffer: &mut [u8; BUFFER_SIZE]| libc::iovec {
            iov_base: buffer.as_mut_ptr().cast(),
            iov_len: BUFFER_SIZE,
        };
        let mut parts: Vec<libc::iovec> = buffers.iter_mut().map(part).collect();
        let header = |part: &mut libc::iovec| {
            // SAFETY: a zeroed header is valid: null pointers and zeros.
            let mut header: libc::mmsghdr = unsafe { std::mem::zeroed() };
            header.msg_hdr.msg_iov = part;
            header.msg_hdr.msg_iovlen = 1;
            header
        };
        Batch { headers: parts.iter_mut().map(header).collect(), _parts: parts, buffers }
    }

    /// Waits for a datagram, up to the read timeout of the socket. Returns that datagram and
    /// any others that are already queued in the socket.
    pub fn receive(&mut self, socket: &impl AsRawFd) -> io::Result<impl Iterator<Item = &[u8]>> {
        let (fd, headers) = (socket.as_raw_fd(), self.headers.as_mut_ptr());
        let (count, flags) = (self.headers.len() as u32, libc::MSG_WAITFORONE);
        // SAFETY: `headers` has `count` elements. They point to buffers that outlive the call
        // and that nothing else uses during the call.
        let received = unsafe { libc::recvmmsg(fd, headers, count, flags as _, ptr::null_mut()) };
        let received = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
        let taken = self.headers[..received].iter().zip(&self.buffers);
        Ok(taken.map(|(header, buffer)| &buffer[..header.msg_len as usize]))
    }
}
