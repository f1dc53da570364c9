//! `SCM_RIGHTS`: sends open descriptors to another process over a Unix stream.

use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

/// The most descriptors that one message carries here. The kernel allows 253.
pub const MAX_DESCRIPTORS: usize = 64;

/// Memory for the control message that carries the descriptors, aligned for its header.
type Control = [u64; 64];

const fn control_size(descriptors: usize) -> usize {
    // SAFETY: the macro only computes a length from a length.
    unsafe { libc::CMSG_SPACE((descriptors * size_of::<i32>()) as u32) as usize }
}

const _: () = assert!(control_size(MAX_DESCRIPTORS) <= size_of::<Control>());

/// The memory of one message: one byte of data, and the control message. A stream carries
/// descriptors only together with data.
struct Message {
    byte: u8,
    buffer: libc::iovec,
    control: Control,
}

impl Message {
    fn new() -> Message {
        let buffer = libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 };
        Message { byte: 0, buffer, control: [0; 64] }
    }

    /// Makes a header with pointers to the byte and to the first `control_size` bytes of the
    /// control message. The pointers are valid until this message is moved, dropped or
    /// borrowed again.
    fn header(&mut self, control_size: usize) -> libc::msghdr {
        assert!(control_size <= size_of::<Control>());
        self.buffer = libc::iovec { iov_base: (&raw mut self.byte).cast(), iov_len: 1 };
        // SAFETY: `msghdr` is plain data for which zeros are valid: null pointers and no
        // lengths.
        let mut header: libc::msghdr = unsafe { mem::zeroed() };
        header.msg_iov = &raw mut self.buffer;
        header.msg_iovlen = 1;
        header.msg_control = (&raw mut self.control).cast();
        header.msg_controllen = control_size as _;
        header
    }
}

/// Sends one byte with descriptors over a Unix stream. `InvalidInput` if there are no
/// descriptors, or more than [`MAX_DESCRIPTORS`].
pub fn send(socket: impl AsFd, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    if descriptors.is_empty() || descriptors.len() > MAX_DESCRIPTORS {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let numbers: Vec<i32> = descriptors.iter().map(|descriptor| descriptor.as_raw_fd()).collect();
    let size = size_of_val(&numbers[..]) as u32;
    let mut message = Message::new();
    let header = message.header(control_size(numbers.len()));
    // SAFETY: `header` points into `message`, which is not used otherwise until the end of
    // this function. Its control buffer is aligned and has room for a control header and
    // `numbers`, so `first` is not null and all writes stay in that buffer.
    unsafe {
        let first = libc::CMSG_FIRSTHDR(&header);
        (*first).cmsg_level = libc::SOL_SOCKET;
        (*first).cmsg_type = libc::SCM_RIGHTS;
        (*first).cmsg_len = libc::CMSG_LEN(size) as _;
        let to = libc::CMSG_DATA(first).cast::<u8>();
        ptr::copy_nonoverlapping(numbers.as_ptr().cast(), to, size as usize);
    }
    // SAFETY: `socket` and the descriptors are borrowed and therefore open during the call.
    // `header` points to buffers of the stated sizes in `message`, which outlives the call.
    let sent = unsafe { libc::sendmsg(socket.as_fd().as_raw_fd(), &header, libc::MSG_NOSIGNAL) };
    if sent == 1 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Receives one byte and its descriptors. `UnexpectedEof` if the other end is closed,
/// `InvalidData` if the message has more descriptors than fit into [`Control`].
pub fn receive(socket: impl AsFd) -> io::Result<Vec<OwnedFd>> {
    let mut message = Message::new();
    let mut header = message.header(size_of::<Control>());
    let (fd, flags) = (socket.as_fd().as_raw_fd(), libc::MSG_CMSG_CLOEXEC);
    // SAFETY: `fd` is open during the call. `header` points to buffers of the stated sizes
    // in `message`, which outlives the call and is not used otherwise until the end of this
    // function.
    let received = unsafe { libc::recvmsg(fd, &mut header, flags) };
    if received < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: recvmsg succeeded, so the kernel wrote control messages into the buffer that
    // `header` points to and set their length. The descriptors in them are new, and nothing
    // else takes them from the buffer.
    let descriptors = unsafe { take_descriptors(&header) };
    match received {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ if header.msg_flags & libc::MSG_CTRUNC != 0 => Err(io::ErrorKind::InvalidData.into()),
        _ => Ok(descriptors),
    }
}

/// Takes ownership of the descriptors in a header's control messages.
///
/// # Safety
/// `header` and its control buffer are valid, and the kernel filled both. Nothing has taken
/// ownership of the descriptors in the control buffer.
unsafe fn take_descriptors(header: &libc::msghdr) -> Vec<OwnedFd> {
    let mut descriptors = Vec::new();
    // SAFETY: the control buffer is valid by this function's contract, and the macro checks
    // that it has room for a control header.
    let mut control = unsafe { libc::CMSG_FIRSTHDR(header) };
    while !control.is_null() {
        // SAFETY: `control` points to a control header that the kernel wrote, within the
        // buffer.
        let (level, kind, size) =
            unsafe { ((*control).cmsg_level, (*control).cmsg_type, (*control).cmsg_len as usize) };
        if level == libc::SOL_SOCKET && kind == libc::SCM_RIGHTS {
            // SAFETY: `control` is as above. The kernel counts the control header in the
            // size, so the subtraction cannot wrap around, and the numbers of descriptors
            // follow the header. By this function's contract each of them is a new
            // descriptor that nothing else owns.
            unsafe {
                let bytes = size - libc::CMSG_LEN(0) as usize;
                let from = libc::CMSG_DATA(control).cast::<i32>();
                for index in 0..bytes / size_of::<i32>() {
                    let number = from.add(index).read_unaligned();
                    descriptors.push(OwnedFd::from_raw_fd(number));
                }
            }
        }
        // SAFETY: `header` and `control` are as above; the macro checks that the next
        // control header lies within the buffer.
        control = unsafe { libc::CMSG_NXTHDR(header, control) };
    }
    descriptors
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_message_carries_up_to_the_maximum_of_descriptors() {
        let (here, there) = UnixStream::pair().unwrap();
        for count in [1, MAX_DESCRIPTORS] {
            send(&here, &vec![there.as_fd(); count]).unwrap();
            let received = receive(&there).unwrap();
            assert_eq!(received.len(), count);
            // Each received descriptor is a duplicate of `there`.
            for descriptor in received {
                io::Write::write_all(&mut UnixStream::from(descriptor), b"!").unwrap();
                let mut byte = [0];
                io::Read::read_exact(&mut &here, &mut byte).unwrap();
            }
        }
        for count in [0, MAX_DESCRIPTORS + 1] {
            let error = send(&here, &vec![there.as_fd(); count]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        }
    }

    #[test]
    fn a_closed_stream_is_an_unexpected_end() {
        let (here, there) = UnixStream::pair().unwrap();
        drop(here);
        let error = receive(&there).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
