//! What one process leaves to the other: its sockets with all that waits in them, its
//! tables, and its place on the interface.

use std::fmt;
use std::net::UdpSocket;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use laminar_xdp_prebuilt::abi;

use crate::config::XdpAttachMode;
use crate::error::XdpError;
use crate::kernel::attach::{Attachment, Hold};
use crate::kernel::controls::XdpControls;
use crate::kernel::ingest::peer::{Peer, broken, failed};
use crate::kernel::interface::Interface;
use crate::kernel::mark::Mark;
use crate::kernel::object::{Loaded, LoadedForSockets, Map};
use crate::kernel::shape;
use crate::kernel::sockets::Group;
use crate::kernel::steering::Steering;

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
        let Loaded { program, multi_buffer, cpu_map, stats, steering, .. } = loaded;
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
                controls: XdpControls::of_another_process(),
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
