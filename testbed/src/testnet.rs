//! Two namespaces and the veth pair between them.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use socket2::{Domain, SockAddr, Socket, Type};
use xshell::{Shell, cmd};

use crate::borrowed_nics::{self, BorrowedNics};
use crate::iproute::ip;
use crate::namespace::Namespace;
use crate::{bpf, ethtool, interface_index};

/// A sender and a receiver with a wire between them. There is no other traffic
/// on it: IPv6 is off and neighbours are known, so every packet is the test's.
#[derive(Debug)]
pub struct TestNet {
    /// Where XDP is attached, to [`TestNet::INTERFACE`].
    pub receiver: Namespace,
    /// Where packets are made.
    pub sender: Namespace,
    /// The receiver's interface: [`TestNet::INTERFACE`], unless it was there before.
    pub interface: String,
    /// The sender's interface: [`TestNet::PEER`], unless it was there before.
    pub peer: String,
    /// The hardware address of the receiver's interface.
    pub receiver_mac: [u8; 6],
    /// Keeps the namespaces until its interfaces are home.
    _nics: Option<BorrowedNics>,
}

impl TestNet {
    /// The receiver's interface.
    pub const INTERFACE: &'static str = "lam0";
    /// The sender's interface.
    pub const PEER: &'static str = "gen0";
    /// The receiver's address.
    pub const RECEIVER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
    /// The sender's address.
    pub const SENDER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
    /// The receiver's hardware address.
    pub const RECEIVER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
    /// The sender's hardware address.
    pub const SENDER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

    /// Makes the namespaces and the wire. Takes root.
    pub fn new() -> Result<TestNet> {
        let (receiver, sender) = (Namespace::new()?, Namespace::new()?);
        let (interface, peer, sender_path) = (TestNet::INTERFACE, TestNet::PEER, sender.path());
        receiver.enter(|| -> Result<()> {
            quiet_ipv6()?;
            let mac = mac_text(TestNet::RECEIVER_MAC);
            ip(&format!(
                "link add {interface} type veth peer name {peer} netns {sender_path}\n\
                 link set dev {interface} address {mac}\n"
            ))
        })?;
        sender.enter(|| -> Result<()> {
            quiet_ipv6()?;
            ip(&format!("link set dev {peer} address {}\n", mac_text(TestNet::SENDER_MAC)))
        })?;
        let (interface, peer) = (interface.into(), peer.into());
        let receiver_mac = TestNet::RECEIVER_MAC;
        TestNet { receiver, sender, interface, peer, receiver_mac, _nics: None }.up()
    }

    /// The same with two interfaces that are there, with a cable between them, and that
    /// nobody uses: they are moved into the namespaces, and back in the end.
    pub fn adopt(interface: &str, peer: &str) -> Result<TestNet> {
        let (receiver, sender) = (Namespace::new()?, Namespace::new()?);
        let receiver_mac = borrowed_nics::mac_of_unused(interface)?;
        borrowed_nics::mac_of_unused(peer)?;
        let nics = Some(BorrowedNics::move_into([
            (interface, &receiver, ethtool::RECEIVE_MERGED),
            (peer, &sender, ethtool::TX_CHECKSUM),
        ])?);
        receiver.enter(quiet_ipv6)?;
        sender.enter(quiet_ipv6)?;
        let (interface, peer) = (interface.into(), peer.into());
        let wire = TestNet { receiver, sender, interface, peer, receiver_mac, _nics: nics }.up()?;
        let ends = [(&wire.receiver, &wire.interface), (&wire.sender, &wire.peer)];
        ends.into_iter().try_for_each(|(namespace, end)| namespace.enter(|| wait_for_link(end)))?;
        Ok(wire)
    }

    /// Gives both ends their addresses and has them know each other.
    fn up(self) -> Result<TestNet> {
        let TestNet { interface, peer, .. } = &self;
        let (to, mac) = (TestNet::RECEIVER, mac_text(self.receiver_mac));
        self.receiver.enter(|| ip(&address(interface, to)))?;
        self.sender.enter(|| -> Result<()> {
            let neighbour = format!("neighbour replace {to} lladdr {mac} dev {peer}\n");
            ip(&(address(peer, TestNet::SENDER) + &neighbour))?;
            // A checksum left to the hardware is still missing when a redirected
            // packet leaves the CPU map, and the stack would drop it.
            ethtool::set(peer, ethtool::TX_CHECKSUM, 0)
        })?;
        Ok(self)
    }

    /// Sets the MTU of both ends.
    pub fn set_mtu(&self, mtu: u32) -> Result<()> {
        let set = |interface: &str| ip(&format!("link set dev {interface} mtu {mtu}\n"));
        self.receiver.enter(|| set(&self.interface))?;
        self.sender.enter(|| set(&self.peer))
    }

    /// Has the receiver's interface poll for packets, as a network card does, whether a
    /// program is attached or not. A veth device does so while it merges packets (GRO).
    pub fn poll_with_napi(&self) -> Result<()> {
        self.receiver.enter(|| ethtool::set(&self.interface, ethtool::RECEIVE_MERGED, 1))
    }

    /// An ordinary socket at the sender's side.
    pub fn sending_socket(&self) -> Result<UdpSocket> {
        self.sender.enter(|| UdpSocket::bind((TestNet::SENDER, 0))).context("bind the sender")
    }

    /// The address of `port` at the receiver.
    pub fn destination(port: u16) -> SocketAddr {
        SocketAddr::V4(SocketAddrV4::new(TestNet::RECEIVER, port))
    }

    /// A socket that puts whole Ethernet frames on the wire.
    pub fn raw_socket(&self) -> Result<Socket> {
        self.sender.enter(|| {
            let protocol = socket2::Protocol::from((libc::ETH_P_ALL as u16).to_be() as i32);
            let socket = Socket::new(Domain::PACKET, Type::RAW, Some(protocol))?;
            socket.bind(&link_address(&self.peer)?)?;
            Ok(socket)
        })
    }

    /// How `ip link` describes the receiver's interface: shows attached XDP.
    pub fn show_interface(&self) -> Result<String> {
        let interface = &self.interface;
        self.receiver.enter(|| {
            let shell = Shell::new()?;
            Ok(cmd!(shell, "ip link show dev {interface}").quiet().read()?)
        })
    }

    /// Whether any XDP program is attached at the receiver.
    pub fn carries_xdp(&self) -> Result<bool> {
        Ok(self.attached_program()?.is_some())
    }

    /// The id of the XDP program at the receiver.
    pub fn attached_program(&self) -> Result<Option<u32>> {
        self.receiver.enter(|| bpf::attached_program(&self.interface))
    }
}

/// Waits until the other end of the cable answers: cards take seconds to agree on a speed.
fn wait_for_link(interface: &str) -> Result<()> {
    let (shell, begin) = (Shell::new()?, Instant::now());
    while begin.elapsed() < Duration::from_secs(15) {
        let shown = cmd!(shell, "ip -oneline link show dev {interface}").quiet().read()?;
        if shown.contains("LOWER_UP") {
            return Ok(());
        }
        sleep(Duration::from_millis(100));
    }
    bail!("{interface} has no link; is the cable between the two?")
}

fn quiet_ipv6() -> Result<()> {
    for scope in ["all", "default"] {
        let path = format!("/proc/sys/net/ipv6/conf/{scope}/disable_ipv6");
        if fs::exists(&path)? {
            fs::write(&path, "1").with_context(|| path)?;
        }
    }
    Ok(())
}

/// The commands that give an interface its addresses.
fn address(interface: &str, address: Ipv4Addr) -> String {
    format!(
        "address add {address}/24 dev {interface}\n\
         link set dev {interface} up\n\
         link set dev lo up\n"
    )
}

fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// The address of an interface for a packet socket.
fn link_address(interface: &str) -> Result<SockAddr> {
    let index = interface_index(interface)?;
    // SAFETY: a zeroed sockaddr_storage is valid, it is large enough for a
    // sockaddr_ll, and the length that is stored is that of one.
    let ((), address) = unsafe {
        SockAddr::try_init(|storage, length| {
            let link = &mut *storage.cast::<libc::sockaddr_ll>();
            link.sll_family = libc::AF_PACKET as u16;
            link.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
            link.sll_ifindex = index;
            *length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
            Ok(())
        })?
    };
    Ok(address)
}
