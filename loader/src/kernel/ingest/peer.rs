//! The other process, at the far end of a Unix stream: saying, hearing, and giving
//! descriptors. It may be anybody, and may fall silent.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use crate::error::XdpError;
use crate::kernel::libbpf::datagrams::{MOST_DESCRIPTORS, receive_descriptors, send_descriptors};
use crate::kernel::libbpf::socket::peer_user;

/// How long the other side may take for one step: loading programs, finishing a batch.
const PATIENCE: Duration = Duration::from_secs(30);
/// More than any message has: 65536 owners of 5 digits each.
const LONGEST_MESSAGE: u32 = 1 << 20;

/// Characters of what the other side says that reach an error.
const MOST_TOLD: usize = 400;
/// In front of the reason.
const REFUSED: &str = "refused: ";

/// One end of the conversation.
#[derive(Debug)]
pub struct Peer<'a>(&'a UnixStream);

impl Peer<'_> {
    /// Refuses whoever is neither root nor the user of this process.
    pub fn new(stream: &UnixStream) -> Result<Peer<'_>, XdpError> {
        let peer = Peer(stream);
        let user = || -> io::Result<u32> {
            stream.set_nonblocking(false)?;
            peer_user(stream.as_fd())
        };
        let user = user().map_err(broken("see who is there"))?;
        let mine =
            std::fs::metadata("/proc/self").map(|me| std::os::unix::fs::MetadataExt::uid(&me));
        if user != 0 && mine.ok() != Some(user) {
            return Err(failed(format!(
                "the other process belongs to user {user}; only root and this process's user may \
                 hand over or take over"
            )));
        }
        Ok(peer)
    }

    pub fn say(&self, text: &str) -> Result<(), XdpError> {
        let length = text.len() as u32;
        let mut message = length.to_be_bytes().to_vec();
        message.extend(text.as_bytes());
        let (mut left, deadline) = (&message[..], Instant::now() + PATIENCE);
        while !left.is_empty() {
            let sent = self.patiently(deadline, |mut stream| stream.write(left));
            left = &left[sent.map_err(broken("speak to the other process"))?..];
        }
        Ok(())
    }

    pub fn hear(&self) -> Result<String, XdpError> {
        let deadline = Instant::now() + PATIENCE;
        let hear = || -> io::Result<String> {
            let mut length = [0; 4];
            self.read(&mut length, deadline)?;
            let length = u32::from_be_bytes(length);
            if length > LONGEST_MESSAGE {
                return Err(io::ErrorKind::InvalidData.into());
            }
            let mut text = vec![0; length as usize];
            self.read(&mut text, deadline)?;
            String::from_utf8(text).map_err(io::Error::other)
        };
        hear().map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => {
                failed("the other process hung up; what it says itself may tell why".into())
            }
            io::ErrorKind::TimedOut => failed(format!(
                "the other process gave no answer within {} s; see whether it still runs",
                PATIENCE.as_secs()
            )),
            _ => broken("hear the other process")(error),
        })
    }

    /// Fills the buffer, whether the bytes come at once or one by one.
    fn read(&self, mut buffer: &mut [u8], deadline: Instant) -> io::Result<()> {
        while !buffer.is_empty() {
            match self.patiently(deadline, |mut stream| stream.read(buffer))? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => buffer = &mut buffer[count..],
            }
        }
        Ok(())
    }

    /// Tries until the deadline, and once more: this process may have been stopped, and
    /// what it waits for be there.
    fn patiently<T>(
        &self,
        deadline: Instant,
        mut attempt: impl FnMut(&UnixStream) -> io::Result<T>,
    ) -> io::Result<T> {
        use io::ErrorKind::{Interrupted, TimedOut, WouldBlock};
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let wait = Some(left.max(Duration::from_millis(1)));
            self.0.set_read_timeout(wait)?;
            self.0.set_write_timeout(wait)?;
            match attempt(self.0) {
                Err(error) if matches!(error.kind(), Interrupted | WouldBlock) => {
                    if left.is_zero() {
                        return Err(TimedOut.into());
                    }
                }
                answer => return answer,
            }
        }
    }

    /// Tells the other side why this one does not go on. It may be gone.
    pub fn refuse(&self, reason: impl fmt::Display) {
        self.say(&format!("{REFUSED}{reason}")).ok();
        self.hang_up();
    }

    /// From now on the other side cannot say anything more; what it has said can still be
    /// heard.
    pub fn hang_up(&self) {
        self.0.shutdown(Shutdown::Both).ok();
    }

    /// Fails unless the other side says exactly this.
    pub fn expect(&self, text: &str) -> Result<(), XdpError> {
        let heard = self.hear_unless_refused()?;
        if heard == text {
            return Ok(());
        }
        let heard: String = heard.chars().take(MOST_TOLD).collect();
        Err(failed(format!("the other process said {heard:?} instead of {text:?}")))
    }

    /// What it says, or the reason if it refuses.
    pub fn hear_unless_refused(&self) -> Result<String, XdpError> {
        let heard = self.hear()?;
        match heard.strip_prefix(REFUSED) {
            Some(reason) => {
                let reason: String = reason.chars().take(MOST_TOLD).collect();
                Err(failed(format!("the other process refuses: {}", reason.escape_debug())))
            }
            None => Ok(heard),
        }
    }

    pub fn give(&self, descriptors: &[BorrowedFd]) -> Result<(), XdpError> {
        let deadline = Instant::now() + PATIENCE;
        let mut batches = descriptors.chunks(MOST_DESCRIPTORS);
        batches
            .try_for_each(|batch| {
                self.patiently(deadline, |stream| send_descriptors(stream.as_fd(), batch))
            })
            .map_err(broken("give descriptors to the other process"))
    }

    pub fn take(&self, count: usize) -> Result<Vec<OwnedFd>, XdpError> {
        let (mut descriptors, deadline) = (Vec::new(), Instant::now() + PATIENCE);
        while descriptors.len() < count {
            let more = self.patiently(deadline, |stream| receive_descriptors(stream.as_fd()));
            let more = more.map_err(broken("take descriptors from the other process"))?;
            if more.is_empty() {
                return Err(failed("the other process gave fewer descriptors than it said".into()));
            }
            descriptors.extend(more);
        }
        Ok(descriptors)
    }
}

pub fn failed(problem: String) -> XdpError {
    XdpError::HandOver { problem }
}

/// Makes the error of what could not be done to its end.
pub fn broken(what: &str) -> impl Fn(io::Error) -> XdpError {
    move |error| failed(format!("cannot {what}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_said_before_hanging_up_is_heard() {
        let (here, there) = UnixStream::pair().unwrap();
        let (here, there) = (Peer::new(&here).unwrap(), Peer::new(&there).unwrap());
        there.say("mine").unwrap();
        here.hang_up();
        here.expect("mine").unwrap();
        there.say("mine").unwrap_err();
        here.expect("mine").unwrap_err();
    }

    /// As after being stopped for long.
    #[test]
    fn what_is_there_is_heard_although_it_is_too_late() {
        let (here, there) = UnixStream::pair().unwrap();
        let (here, there) = (Peer::new(&here).unwrap(), Peer::new(&there).unwrap());
        let late = Instant::now();
        there.say("mine").unwrap();
        let mut message = [0; 8];
        here.read(&mut message, late).unwrap();
        assert_eq!(&message, b"\0\0\0\x04mine");
        let error = here.read(&mut message, late).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
