//! One process takes over from another: over a Unix stream the old one gives the new one
//! its sockets, with all that waits in them, its tables and its XDP attachment.
//!
//! ```text
//! new: terms                          what it was configured for
//! old: what there is, descriptors
//! new: ready                          its own programs are in place
//! old: yours                          it has stopped reading
//! new: mine                           it begins
//! ```
//!
//! Each may say "refused" instead, and why.
//!
//! Before "mine" the old process can go on whatever happens to the new one: both hold
//! everything, and programs of either work on the same tables.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use laminar_xdp_prebuilt::abi;

use crate::config::XdpAttachMode;
use crate::error::XdpError;
use crate::kernel::attach::{Attachment, Hold};
use crate::kernel::interface::Interface;
use crate::kernel::libbpf::datagrams::{MOST_DESCRIPTORS, receive_descriptors, send_descriptors};
use crate::kernel::libbpf::socket::peer_user;
use crate::kernel::mark::Mark;
use crate::kernel::object::{Loaded, LoadedForSockets, Map};
use crate::kernel::shape;
use crate::kernel::sockets::Group;
use crate::kernel::steering::Steering;

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

/// What both processes have to be configured for alike.
pub fn terms(address: IpAddr, port: u16, steering: &Steering) -> String {
    format!(
        "laminar-xdp hand-over 1, ABI {}, port {port} on {address}, {} partitions, CPUs {:?}",
        abi::LAMINAR_ABI_VERSION,
        steering.partitions(),
        steering.cores()
    )
}

/// Everything that one process gives to the other.
pub struct Estate {
    pub sockets: Vec<Arc<UdpSocket>>,
    /// For each socket the kernel's count of drops where this one's counting began.
    pub drops_before: Vec<u32>,
    /// For each partition the index of its core.
    pub owners: Vec<usize>,
    pub object: Option<LoadedForSockets>,
    pub xdp: Option<XdpEstate>,
}

/// An XDP program at work, with its maps.
pub struct XdpEstate {
    /// Provisional: dropped, it leaves the program where it is.
    pub attachment: Attachment,
    pub loaded: Loaded,
    pub steers: bool,
}

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

    fn hear_unless_refused(&self) -> Result<String, XdpError> {
        let heard = self.hear()?;
        match heard.strip_prefix(REFUSED) {
            Some(reason) => {
                let reason: String = reason.chars().take(MOST_TOLD).collect();
                Err(failed(format!("the other process refuses: {}", reason.escape_debug())))
            }
            None => Ok(heard),
        }
    }

    fn give(&self, descriptors: &[BorrowedFd]) -> Result<(), XdpError> {
        let mut batches = descriptors.chunks(MOST_DESCRIPTORS);
        batches
            .try_for_each(|batch| send_descriptors(self.0.as_fd(), batch))
            .map_err(broken("give descriptors to the other process"))
    }

    fn take(&self, count: usize) -> Result<Vec<OwnedFd>, XdpError> {
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

/// What the old process says about what it gives, as words in the order of these fields,
/// the owners last. Their descriptors follow.
struct Inventory {
    /// One for each socket, and in front of them their number.
    drops_before: Vec<u32>,
    object: bool,
    xdp: Option<XdpInventory>,
    owners: Vec<usize>,
}

/// In the place of an interface, whose name cannot be that.
const NO_XDP: &str = "/";

struct XdpInventory {
    interface: String,
    index: i32,
    generic: bool,
    steers: bool,
    multi_buffer: bool,
    link: bool,
}

/// Gives everything there is.
pub fn give(
    peer: &Peer,
    owners: Vec<usize>,
    group: &Group,
    xdp: Option<(&Attachment, &Loaded, bool)>,
) -> Result<(), XdpError> {
    let (sockets, object) = (group.sockets(), group.object());
    let mut descriptors: Vec<BorrowedFd> = sockets.iter().map(|socket| socket.as_fd()).collect();
    if let Some(object) = object {
        let LoadedForSockets { select, filter, sockets, stats, steering } = object;
        descriptors.extend([select.as_fd(), filter.as_fd()]);
        descriptors.extend([sockets, stats, steering].map(Map::as_fd));
    }
    let mut about_xdp = None;
    if let Some((attachment, loaded, steers)) = xdp
        && let Some(hold) = attachment.hold()
    {
        let Loaded { program, multi_buffer, cpu_map, stats, steering } = loaded;
        descriptors.push(program.as_fd());
        descriptors.extend([cpu_map, stats, steering].map(Map::as_fd));
        descriptors.push(match hold {
            Hold::Link(link) => link.as_fd(),
            Hold::Netlink { mark, .. } => mark.as_fd(),
        });
        about_xdp = Some(XdpInventory {
            interface: attachment.on().name.clone(),
            index: attachment.on().index,
            generic: attachment.mode() == XdpAttachMode::Generic,
            steers,
            multi_buffer: *multi_buffer,
            link: matches!(hold, Hold::Link(_)),
        });
    }
    let inventory = Inventory {
        owners,
        drops_before: group.drops_before(),
        object: object.is_some(),
        xdp: about_xdp,
    };
    peer.say(&inventory.to_string())?;
    peer.give(&descriptors)
}

/// Takes everything there is.
pub fn take(peer: &Peer, steering: &Steering, port: u16) -> Result<Estate, XdpError> {
    let heard = peer.hear_unless_refused()?;
    let inventory = Inventory::parse(&heard, steering).ok_or_else(|| {
        failed("what the running process says about itself cannot be understood".into())
    })?;
    let xdp_descriptors = inventory.xdp.as_ref().map_or(0, |_| 5);
    let count =
        inventory.drops_before.len() + if inventory.object { 5 } else { 0 } + xdp_descriptors;
    let mut descriptors = peer.take(count)?.into_iter();
    let too_few = || failed("the running process gave too few descriptors".into());
    let mut next = || descriptors.next().ok_or_else(too_few);

    let mut sockets = Vec::new();
    for _ in &inventory.drops_before {
        let socket = UdpSocket::from(next()?);
        match socket.local_addr() {
            Ok(address) if address.port() == port => sockets.push(Arc::new(socket)),
            other => return Err(failed(format!("a socket that was given is on {other:?}"))),
        }
    }
    let map =
        |name, descriptor| shape::map(name, descriptor).map_err(broken("use a map that was given"));
    let object = match inventory.object {
        false => None,
        true => Some(LoadedForSockets {
            select: next()?,
            filter: next()?,
            sockets: map(abi::LAMINAR_MAP_SOCKETS, next()?)?,
            stats: map(abi::LAMINAR_MAP_STATS, next()?)?,
            steering: map(abi::LAMINAR_MAP_STEERING, next()?)?,
        }),
    };
    let xdp = match inventory.xdp {
        None => None,
        Some(about) => {
            let interface = Interface::find(&about.interface)?;
            if interface.index != about.index {
                return Err(failed(format!(
                    "{} is another interface here: the running process is in another network \
                     namespace",
                    about.interface
                )));
            }
            let loaded = Loaded {
                program: next()?,
                multi_buffer: about.multi_buffer,
                cpu_map: map(abi::LAMINAR_MAP_CPU, next()?)?,
                stats: map(abi::LAMINAR_MAP_STATS, next()?)?,
                steering: map(abi::LAMINAR_MAP_STEERING, next()?)?,
            };
            let mode = if about.generic { XdpAttachMode::Generic } else { XdpAttachMode::Native };
            let hold = match about.link {
                true => Hold::Link(next()?),
                false => {
                    let program = loaded.program.try_clone();
                    let program = program.map_err(broken("duplicate a descriptor"))?;
                    Hold::Netlink { program, mark: Mark::of(next()?) }
                }
            };
            let former = loaded.program.try_clone().map_err(broken("duplicate a descriptor"))?;
            let attachment = Attachment::provisional(interface, mode, hold, former);
            Some(XdpEstate { attachment, loaded, steers: about.steers })
        }
    };
    let Inventory { drops_before, owners, .. } = inventory;
    Ok(Estate { sockets, drops_before, owners, object, xdp })
}

impl fmt::Display for Inventory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.drops_before.len())?;
        self.drops_before.iter().try_for_each(|drops| write!(f, " {drops}"))?;
        write!(f, " {}", self.object)?;
        match &self.xdp {
            None => write!(f, " {NO_XDP}")?,
            Some(xdp) => write!(
                f,
                " {} {} {} {} {} {}",
                xdp.interface, xdp.index, xdp.generic, xdp.steers, xdp.multi_buffer, xdp.link,
            )?,
        }
        self.owners.iter().try_for_each(|owner| write!(f, " {owner}"))
    }
}

impl Inventory {
    fn parse(text: &str, steering: &Steering) -> Option<Inventory> {
        let mut words = text.split(' ');
        let mut word = || words.next();
        let sockets: usize = parse(word()).filter(|n| *n == steering.cores().len())?;
        let drops_before = (0..sockets).map(|_| parse(word())).collect::<Option<_>>()?;
        let object = parse(word())?;
        let xdp = match word()? {
            NO_XDP => None,
            interface => Some(XdpInventory {
                interface: interface.into(),
                index: parse(word())?,
                generic: parse(word())?,
                steers: parse(word())?,
                multi_buffer: parse(word())?,
                link: parse(word())?,
            }),
        };
        let owners = words.map(|word| parse(Some(word)).filter(|owner| *owner < sockets));
        let owners: Vec<usize> = owners.collect::<Option<_>>()?;
        let fits = owners.len() == steering.partitions() as usize;
        fits.then_some(Inventory { drops_before, object, xdp, owners })
    }
}

fn parse<T: std::str::FromStr>(word: Option<&str>) -> Option<T> {
    word?.parse().ok()
}

pub fn failed(problem: String) -> XdpError {
    XdpError::HandOver { problem }
}

fn broken(what: &str) -> impl Fn(io::Error) -> XdpError {
    move |error| failed(format!("cannot {what}: {error}"))
}
