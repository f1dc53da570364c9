//! The state that one process hands over to the other: the sockets with all datagrams that wait
//! in them, the tables, and the attachment to the interface.
//!
//! The state is sent as a message of words separated by spaces, in the order of
//! [`Inventory`]'s fields, followed by descriptors in the order in which [`send`] collects
//! them.

use std::fmt;
use std::net::UdpSocket;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::str::FromStr;
use std::sync::Arc;

use laminar_xdp_prebuilt::abi;

use crate::config::XdpAttachMode;
use crate::ids::{CpuIndex, InterfaceIndex};
use crate::ingest::handover::channel::{Channel, failed_to};
use crate::ingest::sockets::SocketGroup;
use crate::object::{LoadedSockets, LoadedXdp, layout};
use crate::partitions::Partitions;
use crate::report::XdpError;
use crate::sys::map::Map;
use crate::xdp::{Attachment, Hold, Interface, OwnerLock, RunningProgram};

/// The state that this process received.
pub struct State {
    pub sockets: Vec<Arc<UdpSocket>>,
    /// For each socket, the kernel's count of drops when the other process started counting.
    pub drops_before: Vec<u32>,
    /// The owner of each partition.
    pub owners: Vec<CpuIndex>,
    pub loaded_sockets: Option<LoadedSockets>,
    /// The XDP program of the other process. Its attachment is provisional: dropping the
    /// attachment leaves the program attached.
    pub xdp: Option<RunningProgram>,
}

/// What the old process announces before it sends the descriptors.
struct Inventory {
    /// One count of drops for each socket. In the message, the number of sockets comes first.
    drops_before: Vec<u32>,
    has_loaded_sockets: bool,
    xdp: Option<XdpInventory>,
    owners: Vec<CpuIndex>,
}

/// The word that the message has in place of an interface's name if the process has no XDP
/// program. No interface can have this name.
const NO_XDP: &str = "/";

/// How many descriptors are sent for the loaded socket programs.
const SOCKET_PROGRAM_DESCRIPTORS: usize = 5;
/// How many descriptors are sent for an XDP program.
const XDP_DESCRIPTORS: usize = 5;

struct XdpInventory {
    interface: String,
    index: InterfaceIndex,
    is_generic: bool,
    steers: bool,
    multi_buffer: bool,
    has_link: bool,
}

/// Sends the inventory, then the descriptors.
pub fn send(
    channel: &Channel,
    owners: Vec<CpuIndex>,
    sockets: &SocketGroup,
    xdp: Option<&RunningProgram>,
) -> Result<(), XdpError> {
    let mut descriptors: Vec<BorrowedFd> =
        sockets.sockets().iter().map(|socket| socket.as_fd()).collect();
    if let Some(loaded) = sockets.loaded() {
        let LoadedSockets { select, filter, sockets, stats, steering } = loaded;
        descriptors.extend([select.as_fd(), filter.as_fd()]);
        descriptors.extend([sockets, stats, steering].map(Map::as_fd));
    }
    let held = xdp.and_then(|program| Some((program, program.attachment.hold()?)));
    if let Some((program, hold)) = held {
        let LoadedXdp { program, cpu_map, stats, steering, .. } = &program.loaded;
        descriptors.push(program.as_fd());
        descriptors.extend([cpu_map, stats, steering].map(Map::as_fd));
        descriptors.push(match hold {
            Hold::Link { link, .. } => link.as_fd(),
            Hold::Netlink { lock, .. } => lock.as_fd(),
        });
    }
    let inventory = Inventory {
        drops_before: sockets.drops_before(),
        has_loaded_sockets: sockets.loaded().is_some(),
        xdp: held.map(|(program, hold)| XdpInventory::of(program, hold)),
        owners,
    };
    channel.send(&inventory.to_string())?;
    channel.send_descriptors(&descriptors)
}

/// Receives the state, and checks that it matches this process's configuration.
pub fn receive(channel: &Channel, partitions: &Partitions, port: u16) -> Result<State, XdpError> {
    let text = channel.receive()?;
    let inventory = Inventory::parse(&text, partitions).ok_or_else(|| {
        XdpError::hand_over("the running process sent a description of its state that is invalid")
    })?;
    let mut descriptors =
        Descriptors(channel.receive_descriptors(inventory.descriptors())?.into_iter());

    let sockets = inventory.drops_before.iter().map(|_| {
        let socket = UdpSocket::from(descriptors.next()?);
        match socket.local_addr() {
            Ok(address) if address.port() == port => Ok(Arc::new(socket)),
            other => Err(XdpError::hand_over(format!("a received socket is bound to {other:?}"))),
        }
    });
    let sockets = sockets.collect::<Result<_, _>>()?;
    let loaded_sockets = match inventory.has_loaded_sockets {
        true => Some(descriptors.loaded_sockets()?),
        false => None,
    };
    let xdp = match &inventory.xdp {
        Some(inventory) => Some(descriptors.running_program(inventory)?),
        None => None,
    };
    let Inventory { drops_before, owners, .. } = inventory;
    Ok(State { sockets, drops_before, owners, loaded_sockets, xdp })
}

/// The received descriptors that are not used yet, in the order of [`send`].
struct Descriptors(std::vec::IntoIter<OwnedFd>);

impl Descriptors {
    fn next(&mut self) -> Result<OwnedFd, XdpError> {
        let missing = || XdpError::hand_over("the running process sent too few descriptors");
        self.0.next().ok_or_else(missing)
    }

    /// Takes the next descriptor as a map. Fails unless the map matches the schema of `name`.
    fn map(&mut self, name: &std::ffi::CStr) -> Result<Map, XdpError> {
        layout::foreign_map(name, self.next()?).map_err(failed_to("use a received map"))
    }

    fn loaded_sockets(&mut self) -> Result<LoadedSockets, XdpError> {
        Ok(LoadedSockets {
            select: self.next()?,
            filter: self.next()?,
            sockets: self.map(abi::LAMINAR_MAP_SOCKETS)?,
            stats: self.map(abi::LAMINAR_MAP_STATS)?,
            steering: self.map(abi::LAMINAR_MAP_STEERING)?,
        })
    }

    fn running_program(&mut self, inventory: &XdpInventory) -> Result<RunningProgram, XdpError> {
        let interface = Interface::find(&inventory.interface)?;
        if interface.index != inventory.index {
            return Err(XdpError::hand_over(format!(
                "the name {} means another interface here: the running process is in another \
                 network namespace",
                inventory.interface
            )));
        }
        let loaded = LoadedXdp {
            program: self.next()?,
            multi_buffer: inventory.multi_buffer,
            cpu_map: self.map(abi::LAMINAR_MAP_CPU)?,
            stats: self.map(abi::LAMINAR_MAP_STATS)?,
            steering: self.map(abi::LAMINAR_MAP_STEERING)?,
            controls: None,
        };
        let duplicated = failed_to("duplicate a descriptor");
        let (program, last) = (loaded.program.try_clone().map_err(&duplicated)?, self.next()?);
        let hold = match inventory.has_link {
            true => Hold::Link { program, link: last },
            false => Hold::Netlink { program, lock: OwnerLock::from_descriptor(last) },
        };
        let mode = match inventory.is_generic {
            true => XdpAttachMode::Generic,
            false => XdpAttachMode::Native,
        };
        let attachment = Attachment::provisional(interface, mode, hold).map_err(&duplicated)?;
        Ok(RunningProgram { attachment, loaded, steers: inventory.steers })
    }
}

impl XdpInventory {
    fn of(program: &RunningProgram, hold: &Hold) -> XdpInventory {
        let interface = program.attachment.interface();
        XdpInventory {
            interface: interface.name.clone(),
            index: interface.index,
            is_generic: program.mode() == XdpAttachMode::Generic,
            steers: program.steers,
            multi_buffer: program.loaded.multi_buffer,
            has_link: matches!(hold, Hold::Link { .. }),
        }
    }
}

impl fmt::Display for Inventory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.drops_before.len())?;
        self.drops_before.iter().try_for_each(|drops| write!(f, " {drops}"))?;
        write!(f, " {}", self.has_loaded_sockets)?;
        match &self.xdp {
            None => write!(f, " {NO_XDP}")?,
            Some(xdp) => {
                write!(f, " {} {} {}", xdp.interface, xdp.index, xdp.is_generic)?;
                write!(f, " {} {} {}", xdp.steers, xdp.multi_buffer, xdp.has_link)?;
            }
        }
        self.owners.iter().try_for_each(|owner| write!(f, " {owner}"))
    }
}

impl Inventory {
    /// The number of descriptors that follow the message.
    fn descriptors(&self) -> usize {
        let socket_programs = if self.has_loaded_sockets { SOCKET_PROGRAM_DESCRIPTORS } else { 0 };
        let xdp = self.xdp.as_ref().map_or(0, |_| XDP_DESCRIPTORS);
        self.drops_before.len() + socket_programs + xdp
    }

    /// Parses an inventory. `None` if it is malformed, or if its number of sockets or owners
    /// differs from this process's configuration.
    fn parse(text: &str, partitions: &Partitions) -> Option<Inventory> {
        let mut words = text.split(' ');
        let mut word = || words.next();
        let sockets: usize = parse(word())?;
        if sockets != partitions.cpus().len() {
            return None;
        }
        let drops_before = (0..sockets).map(|_| parse(word())).collect::<Option<_>>()?;
        let has_loaded_sockets = parse(word())?;
        let xdp = match word()? {
            NO_XDP => None,
            interface => Some(XdpInventory {
                interface: interface.into(),
                index: InterfaceIndex::new(parse(word())?),
                is_generic: parse(word())?,
                steers: parse(word())?,
                multi_buffer: parse(word())?,
                has_link: parse(word())?,
            }),
        };
        let owner = |word| parse::<u16>(Some(word)).filter(|owner| usize::from(*owner) < sockets);
        let owners = words.map(|word| owner(word).map(CpuIndex::new));
        let owners: Vec<_> = owners.collect::<Option<_>>()?;
        let fits = owners.len() == partitions.count() as usize;
        fits.then_some(Inventory { drops_before, has_loaded_sockets, xdp, owners })
    }
}

fn parse<T: FromStr>(word: Option<&str>) -> Option<T> {
    word?.parse().ok()
}
