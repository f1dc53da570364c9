//! The Unix stream between two processes during a hand-over: messages, descriptors and
//! deadlines. Nothing is assumed about the other process: it may send anything, and it may
//! stop answering.
//!
//! A message is UTF-8 text. The stream carries the length of the text in bytes as a 4-byte
//! big-endian number, then the text.

use std::fmt;
use std::io::{self, Read, Write};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use socket2::SockRef;

use crate::report::XdpError;
use crate::sys::descriptors::{self, MAX_DESCRIPTORS};
use crate::sys::socket::peer_user;

/// How long the other process may take for one step, such as loading its programs or
/// finishing a batch.
const PATIENCE: Duration = Duration::from_secs(30);
/// The largest message in bytes. The longest valid one lists 65,536 owners of 5 digits each.
const MAX_MESSAGE: u32 = 1 << 20;
/// An error quotes at most this many characters of the other process's text.
const MAX_QUOTED: usize = 400;
/// The start of a message that refuses the hand-over; the reason follows.
const REFUSED: &str = "refused: ";

/// One end of the stream.
#[derive(Debug)]
pub struct Channel<'a>(&'a UnixStream);

impl Channel<'_> {
    /// Fails unless the other process belongs to root or to this process's user.
    pub fn new(stream: &UnixStream) -> Result<Channel<'_>, XdpError> {
        let peer = || -> io::Result<u32> {
            stream.set_nonblocking(false)?;
            peer_user(stream.as_fd())
        };
        let user = peer().map_err(failed_to("identify the other process"))?;
        let own = std::fs::metadata("/proc/self").map(|process| process.uid());
        if user != 0 && own.ok() != Some(user) {
            return Err(XdpError::hand_over(format!(
                "the other process belongs to user {user}; only root and this process's user may \
                 hand over or take over"
            )));
        }
        Ok(Channel(stream))
    }

    pub fn send(&self, text: &str) -> Result<(), XdpError> {
        let length = text.len() as u32;
        let mut message = length.to_be_bytes().to_vec();
        message.extend(text.as_bytes());
        let (mut left, deadline) = (&message[..], Instant::now() + PATIENCE);
        while !left.is_empty() {
            let sent = self.retry(deadline, |mut stream| stream.write(left));
            left = &left[sent.map_err(failed_to("write to the other process"))?..];
        }
        Ok(())
    }

    /// Receives a message. If the message is a refusal, fails with its reason.
    pub fn receive(&self) -> Result<String, XdpError> {
        self.receive_within(PATIENCE)
    }

    fn receive_within(&self, patience: Duration) -> Result<String, XdpError> {
        let text = self.receive_raw(patience)?;
        match text.strip_prefix(REFUSED) {
            Some(reason) => {
                let reason: String = reason.chars().take(MAX_QUOTED).collect();
                let reason = reason.escape_debug();
                Err(XdpError::hand_over(format!("the other process refuses: {reason}")))
            }
            None => Ok(text),
        }
    }

    /// Receives a message, and fails unless it is `text`.
    pub fn expect(&self, text: &str) -> Result<(), XdpError> {
        self.expect_within(text, PATIENCE)
    }

    /// As [`Channel::expect`], with a deadline that may be shorter.
    pub fn expect_within(&self, text: &str, patience: Duration) -> Result<(), XdpError> {
        let received = self.receive_within(patience.min(PATIENCE))?;
        if received == text {
            return Ok(());
        }
        let received: String = received.chars().take(MAX_QUOTED).collect();
        Err(XdpError::hand_over(format!("the other process sent {received:?} instead of {text:?}")))
    }

    fn receive_raw(&self, patience: Duration) -> Result<String, XdpError> {
        let deadline = Instant::now() + patience;
        let receive = || -> io::Result<String> {
            let mut length = [0; 4];
            self.read_exact(&mut length, deadline)?;
            let length = u32::from_be_bytes(length);
            if length > MAX_MESSAGE {
                return Err(io::ErrorKind::InvalidData.into());
            }
            let mut text = vec![0; length as usize];
            self.read_exact(&mut text, deadline)?;
            String::from_utf8(text).map_err(io::Error::other)
        };
        receive().map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => XdpError::hand_over(
                "the other process closed the stream; look for the reason in its log",
            ),
            io::ErrorKind::TimedOut => XdpError::hand_over(format!(
                "the other process did not answer within {patience:?}; check whether it still runs"
            )),
            _ => failed_to("read from the other process")(error),
        })
    }

    /// Reads until the buffer is full.
    fn read_exact(&self, mut buffer: &mut [u8], deadline: Instant) -> io::Result<()> {
        while !buffer.is_empty() {
            match self.retry(deadline, |mut stream| stream.read(buffer))? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => buffer = &mut buffer[count..],
            }
        }
        Ok(())
    }

    /// Repeats an operation that was interrupted or timed out, until the deadline. Tries at least
    /// once, even after the deadline: this process may have been suspended past the deadline
    /// while the answer arrived in time.
    fn retry<T>(
        &self,
        deadline: Instant,
        mut operation: impl FnMut(&UnixStream) -> io::Result<T>,
    ) -> io::Result<T> {
        use io::ErrorKind::{Interrupted, TimedOut, WouldBlock};
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            // `set_read_timeout` refuses a timeout of zero.
            let timeout = Some(left.max(Duration::from_millis(1)));
            self.0.set_read_timeout(timeout)?;
            self.0.set_write_timeout(timeout)?;
            match operation(self.0) {
                Err(error) if matches!(error.kind(), Interrupted | WouldBlock) => {
                    if left.is_zero() {
                        return Err(TimedOut.into());
                    }
                }
                answer => return answer,
            }
        }
    }

    /// Sends the other process the reason why this process ends the hand-over, and closes the
    /// stream. The other process may have ended already, so a failure to send is ignored.
    pub fn refuse(&self, reason: impl fmt::Display) {
        self.send(&format!("{REFUSED}{reason}")).ok();
        self.close();
    }

    /// Refuses with an error as the reason.
    pub fn refuse_for(&self, error: &XdpError) {
        match error {
            // The problem is sent without "the hand-over failed: ", because the other process
            // puts these words before the reason that it receives.
            XdpError::HandOver { problem, source: None } => self.refuse(problem),
            error => self.refuse(error.with_causes()),
        }
    }

    /// Closes the stream in both directions. Messages that have arrived already can still be
    /// received.
    pub fn close(&self) {
        self.0.shutdown(Shutdown::Both).ok();
    }

    /// Fails if the other process has closed the stream or refused the hand-over. Call this
    /// before a change that the other process would have to undo.
    pub fn check_open(&self) -> Result<(), XdpError> {
        let mut byte = [MaybeUninit::uninit()];
        let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
        match SockRef::from(self.0).recv_with_flags(&mut byte, flags) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(failed_to("read from the other process")(error)),
            // At this time the other process may send only a refusal.
            Ok(_) => self.receive().and_then(|text| {
                Err(XdpError::hand_over(format!("the other process sent {text:?} too early")))
            }),
        }
    }

    pub fn send_descriptors(&self, descriptors: &[BorrowedFd]) -> Result<(), XdpError> {
        let deadline = Instant::now() + PATIENCE;
        let mut batches = descriptors.chunks(MAX_DESCRIPTORS);
        batches
            .try_for_each(|batch| {
                self.retry(deadline, |stream| descriptors::send(stream.as_fd(), batch))
            })
            .map_err(failed_to("send descriptors to the other process"))
    }

    pub fn receive_descriptors(&self, count: usize) -> Result<Vec<OwnedFd>, XdpError> {
        let (mut received, deadline) = (Vec::new(), Instant::now() + PATIENCE);
        while received.len() < count {
            let batch = self.retry(deadline, |stream| descriptors::receive(stream.as_fd()));
            let batch = batch.map_err(failed_to("receive descriptors from the other process"))?;
            if batch.is_empty() {
                return Err(XdpError::hand_over(
                    "the other process sent fewer descriptors than it announced",
                ));
            }
            received.extend(batch);
        }
        Ok(received)
    }
}

/// Converts an `io::Error` into the error "cannot `what`".
pub fn failed_to(what: &'static str) -> impl Fn(io::Error) -> XdpError {
    move |error| XdpError::hand_over_io(format!("cannot {what}"), error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_sent_before_closing_is_received() {
        let (here, there) = UnixStream::pair().unwrap();
        let (here, there) = (Channel::new(&here).unwrap(), Channel::new(&there).unwrap());
        there.send("mine").unwrap();
        here.close();
        here.expect("mine").unwrap();
        there.send("mine").unwrap_err();
        here.expect("mine").unwrap_err();
    }

    #[test]
    fn a_closed_or_refusing_process_is_noticed() {
        let (here, there) = UnixStream::pair().unwrap();
        let (here, there) = (Channel::new(&here).unwrap(), Channel::new(&there).unwrap());
        here.check_open().unwrap();
        there.refuse("no time");
        let error = here.check_open().unwrap_err();
        assert!(error.to_string().contains("no time"), "{error}");
        here.check_open().unwrap_err();
    }

    /// Reproduces a process that was suspended past its deadline.
    #[test]
    fn a_message_that_arrived_is_received_after_the_deadline() {
        let (here, there) = UnixStream::pair().unwrap();
        let (here, there) = (Channel::new(&here).unwrap(), Channel::new(&there).unwrap());
        let past = Instant::now();
        there.send("mine").unwrap();
        let mut message = [0; 8];
        here.read_exact(&mut message, past).unwrap();
        assert_eq!(&message, b"\0\0\0\x04mine");
        let error = here.read_exact(&mut message, past).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
