//! The test network: two namespaces and the veth pair between them.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use socket2::{Domain, SockAddr, Socket, Type};
use xshell::{Shell, cmd};

use crate::borrowed_nics::BorrowedNics;
use crate::interface::{interface_index, mac_of_unused, mac_text};
use crate::iproute::ip;
use crate::namespace::Namespace;
use crate::{bpf, ethtool};

/// A sender and a receiver with a link between them. Every packet on the link comes from the
/// test, because IPv6 is off and the sender's neighbour entry is static.
#[derive(Debug)]
pub struct TestNet {
    /// The namespace of the receiver. XDP programs are attached here.
    pub receiver: Namespace,
    /// The namespace of the sender.
    pub sender: Namespace,
    /// The receiver's interface: [`TestNet::INTERFACE`], unless the caller chose another one.
    pub interface: String,
    /// The sender's interface: [`TestNet::PEER`], unless the caller chose another one.
    pub peer: String,
    /// The hardware address of the receiver's interface.
    pub receiver_mac: [u8; 6],
    /// Moves borrowed interfaces back when the test network is dropped.
    _nics: Option<BorrowedNics>,
}

impl TestNet {
    /// The name of the receiver's interface.
    pub const INTERFACE: &'static str = "lam0";
    /// The name of the sender's interface.
    pub const PEER: &'static str = "gen0";
    /// The receiver's address.
    pub const RECEIVER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
    /// The sender's address.
    pub const SENDER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
    /// The receiver's hardware address.
    pub const RECEIVER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
    /// The sender's hardware address.
    pub const SENDER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

    /// Creates the namespaces and the veth pair. Needs root.
    pub fn new() -> Result<TestNet> {
        TestNet::with_interface(TestNet::INTERFACE)
    }

    /// Like [`TestNet::new`], but with this name for the receiver's interface.
    pub fn with_interface(interface: &str) -> Result<TestNet> {
        let (receiver, sender) = (Namespace::new()?, Namespace::new()?);
        let (peer, sender_path) = (TestNet::PEER, sender.path());
        receiver.enter(|| -> Result<()> {
            disable_ipv6()?;
            let mac = mac_text(TestNet::RECEIVER_MAC);
            ip(&format!(
                "link add {interface} type veth peer name {peer} netns {sender_path}\n\
                 link set dev {interface} address {mac}\n"
            ))
        })?;
        sender.enter(|| -> Result<()> {
            disable_ipv6()?;
            ip(&format!("link set dev {peer} address {}\n", mac_text(TestNet::SENDER_MAC)))
        })?;
        let (interface, peer) = (interface.into(), peer.into());
        let receiver_mac = TestNet::RECEIVER_MAC;
        TestNet { receiver, sender, interface, peer, receiver_mac, _nics: None }.up()
    }

    /// Builds the network from two existing interfaces. A cable must connect them, and both
    /// must be unused. Moves them into the namespaces. Dropping the network moves them back.
    pub fn with_nics(interface: &str, peer: &str) -> Result<TestNet> {
        let (receiver, sender) = (Namespace::new()?, Namespace::new()?);
        let receiver_mac = mac_of_unused(interface)?;
        mac_of_unused(peer)?;
        let nics = Some(BorrowedNics::move_into([
            (interface, &receiver, ethtool::GRO),
            (peer, &sender, ethtool::TX_CHECKSUM),
        ])?);
        receiver.enter(disable_ipv6)?;
        sender.enter(disable_ipv6)?;
        let (interface, peer) = (interface.into(), peer.into());
        let net = TestNet { receiver, sender, interface, peer, receiver_mac, _nics: nics }.up()?;
        net.receiver.enter(|| wait_for_link(&net.interface))?;
        net.sender.enter(|| wait_for_link(&net.peer))?;
        Ok(net)
    }

    /// Sets both interfaces up, with addresses and static neighbours.
    fn up(self) -> Result<TestNet> {
        let TestNet { interface, peer, .. } = &self;
        let (to, mac) = (TestNet::RECEIVER, mac_text(self.receiver_mac));
        self.receiver.enter(|| ip(&set_up(interface, to)))?;
        self.sender.enter(|| -> Result<()> {
            let neighbour = format!("neighbour replace {to} lladdr {mac} dev {peer}\n");
            ip(&(set_up(peer, TestNet::SENDER) + &neighbour))?;
            // Turn off transmit checksum offload. With it, a redirected packet leaves the CPU
            // map without a checksum, and the network stack drops the packet.
            ethtool::set(peer, ethtool::TX_CHECKSUM, 0)
        })?;
        Ok(self)
    }

    /// Sets the MTU of both interfaces.
    pub fn set_mtu(&self, mtu: u32) -> Result<()> {
        let set = |interface: &str| ip(&format!("link set dev {interface} mtu {mtu}\n"));
        self.receiver.enter(|| set(&self.interface))?;
        self.sender.enter(|| set(&self.peer))
    }

    /// Makes the receiver's interface poll for packets (NAPI), as a network card does. Turns
    /// on GRO, because a veth device without an XDP program polls only with GRO.
    pub fn poll_with_napi(&self) -> Result<()> {
        self.receiver.enter(|| ethtool::set(&self.interface, ethtool::GRO, 1))
    }

    /// Opens a UDP socket in the sender's namespace.
    pub fn sending_socket(&self) -> Result<UdpSocket> {
        self.sender.enter(|| UdpSocket::bind((TestNet::SENDER, 0))).context("bind the sender")
    }

    /// The address of `port` at the receiver.
    pub fn destination(port: u16) -> SocketAddr {
        SocketAddr::V4(SocketAddrV4::new(TestNet::RECEIVER, port))
    }

    /// Opens a socket in the sender's namespace that sends complete Ethernet frames.
    pub fn raw_socket(&self) -> Result<Socket> {
        self.sender.enter(|| {
            let protocol = socket2::Protocol::from((libc::ETH_P_ALL as u16).to_be() as i32);
            let socket = Socket::new(Domain::PACKET, Type::RAW, Some(protocol))?;
            socket.bind(&link_address(&self.peer)?)?;
            Ok(socket)
        })
    }

    /// The output of `ip link show` for the receiver's interface, which names attached XDP
    /// programs.
    pub fn show_interface(&self) -> Result<String> {
        let interface = &self.interface;
        self.receiver.enter(|| {
            let shell = Shell::new()?;
            Ok(cmd!(shell, "ip link show dev {interface}").quiet().read()?)
        })
    }

    /// Whether an XDP program is attached to the receiver's interface.
    pub fn carries_xdp(&self) -> Result<bool> {
        Ok(self.attached_program()?.is_some())
    }

    /// The id of the XDP program on the receiver's interface.
    pub fn attached_program(&self) -> Result<Option<u32>> {
        self.receiver.enter(|| bpf::attached_program(&self.interface))
    }
}

/// Waits until the interface has a carrier. Network cards need seconds to agree on a speed.
fn wait_for_link(interface: &str) -> Result<()> {
    let (shell, begin) = (Shell::new()?, Instant::now());
    while begin.elapsed() < Duration::from_secs(15) {
        let shown = cmd!(shell, "ip -oneline link show dev {interface}").quiet().read()?;
        if shown.contains("LOWER_UP") {
            return Ok(());
        }
        sleep(Duration::from_millis(100));
    }
    bail!("{interface} has no link after 15 seconds; connect the two interfaces with a cable")
}

/// Turns IPv6 off in the namespace of the calling thread. With IPv6, the kernel sends
/// discovery packets, and the tests would count them.
fn disable_ipv6() -> Result<()> {
    for scope in ["all", "default"] {
        let path = format!("/proc/sys/net/ipv6/conf/{scope}/disable_ipv6");
        if fs::exists(&path)? {
            fs::write(&path, "1").with_context(|| path)?;
        }
    }
    Ok(())
}

/// The `ip` commands that give an interface its address and set it up.
fn set_up(interface: &str, address: Ipv4Addr) -> String {
    format!(
        "address add {address}/24 dev {interface}\n\
         link set dev {interface} up\n\
         link set dev lo up\n"
    )
}

/// The address of an interface for a packet socket.
fn link_address(interface: &str) -> Result<SockAddr> {
    let index = interface_index(interface)?;
    // SAFETY: the zeroed sockaddr_storage is a valid sockaddr_ll and large enough for it. The
    // closure sets the length to the size of a sockaddr_ll.
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
