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
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_write_timeout(Some(PATIENCE))?;
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
        let mut stream = self.0;
        stream.write_all(&message).map_err(broken("speak to the other process"))
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
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => failed(format!(
                "the other process gave no answer within {} s; see whether it still runs",
                PATIENCE.as_secs()
            )),
            _ => broken("hear the other process")(error),
        })
    }

    /// Fills the buffer, whether the bytes come at once or one by one.
    fn read(&self, mut buffer: &mut [u8], deadline: Instant) -> io::Result<()> {
        let mut stream = self.0;
        while !buffer.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            stream.set_read_timeout(Some(left))?;
            match stream.read(buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => buffer = &mut buffer[count..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Tells the other side why this one does not go on. It may be gone.
    pub fn refuse(&self, reason: impl fmt::Display) {
        self.say(&format!("{REFUSED}{reason}")).ok();
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
        let mut batches = descriptors.chunks(MOST_DESCRIPTORS);
        batches
            .try_for_each(|batch| send_descriptors(self.0.as_fd(), batch))
            .map_err(broken("give descriptors to the other process"))
    }

    pub fn take(&self, count: usize) -> Result<Vec<OwnedFd>, XdpError> {
        let mut descriptors = Vec::new();
        while descriptors.len() < count {
            let more = receive_descriptors(self.0.as_fd());
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
