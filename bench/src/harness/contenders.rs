//! The contenders: ways to drop junk before or in the application.

use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use laminar_xdp::{LaminarHeader, XdpAttachMode, XdpConfig, XdpLoader};
use socket2::{SockFilter, Socket};
use testbed::{TestNet, bpf};
use xshell::{Shell, cmd};

use crate::harness::rx_interface::{PORT, RxInterface};

/// A way to drop junk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contender {
    /// A native XDP program that drops every packet without reading it. This is the baseline:
    /// no other contender can cost less.
    EmptyProgram,
    /// laminar-xdp in native mode.
    Native,
    /// laminar-xdp in generic mode.
    Generic,
    /// nftables at the netdev ingress hook.
    NftablesIngress,
    /// nftables in the raw table, before connection tracking and routing.
    NftablesRaw,
    /// A classic BPF filter on the socket.
    SocketFilter,
    /// No filter: the application reads and validates every datagram.
    Application,
}

impl Contender {
    /// All contenders. Ratios are relative to the first contender.
    pub const ALL: [Contender; 7] = [
        Contender::EmptyProgram,
        Contender::Native,
        Contender::Generic,
        Contender::NftablesIngress,
        Contender::NftablesRaw,
        Contender::SocketFilter,
        Contender::Application,
    ];

    /// Returns the contenders that can run on this machine. For each missing tool, adds a line to
    /// `left_out` that says why its contenders are left out.
    pub fn available(left_out: &mut Vec<String>) -> Result<Vec<Contender>> {
        let shell = Shell::new()?;
        let nft = cmd!(shell, "nft --version").quiet().ignore_stderr().read();
        let mut all = Contender::ALL.to_vec();
        if let Err(error) = nft {
            left_out.push(format!("nftables: {error}; it is in Debian's nftables"));
            all.retain(|one| !matches!(one, Contender::NftablesIngress | Contender::NftablesRaw));
        }
        Ok(all)
    }

    /// Installs the contender on the interface or on the application's socket.
    pub fn install(self, rx: &mut RxInterface, socket: &Socket, cpu: u32) -> Result<Installed> {
        let installed = match self {
            Contender::EmptyProgram => {
                let program = bpf::empty_program(c"baseline", bpf::XDP_DROP)?;
                let link = rx.net.receiver.enter(|| bpf::attach(&program, &rx.net.interface))?;
                Installed::Link(link)
            }
            Contender::Native => load(rx, XdpAttachMode::Native, &[cpu])?,
            Contender::Generic => load(rx, XdpAttachMode::Generic, &[cpu])?,
            Contender::NftablesIngress => {
                let interface = &rx.net.interface;
                let hook = format!("type filter hook ingress device {interface} priority 0");
                nftables(rx, "netdev", &hook)?
            }
            Contender::NftablesRaw => {
                nftables(rx, "ip", "type filter hook prerouting priority raw")?
            }
            Contender::SocketFilter => {
                socket.attach_filter(&magic_filter()).context("classic BPF filter")?;
                Installed::WithSocket
            }
            Contender::Application => Installed::WithSocket,
        };
        rx.bind_threads()?;
        Ok(installed)
    }
}

impl fmt::Display for Contender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Contender::EmptyProgram => "empty program, native",
            Contender::Native => "laminar-xdp, native",
            Contender::Generic => "laminar-xdp, generic",
            Contender::NftablesIngress => "nftables, ingress",
            Contender::NftablesRaw => "nftables, raw",
            Contender::SocketFilter => "classic BPF on the socket",
            Contender::Application => "application only",
        })
    }
}

/// An installed contender. Dropping it removes the contender.
#[must_use = "dropping it removes the contender"]
pub enum Installed {
    /// The link of a program.
    Link(#[expect(dead_code, reason = "owned for its Drop")] OwnedFd),
    /// laminar-xdp.
    Loader(#[expect(dead_code, reason = "owned for its Drop")] Box<XdpLoader>),
    /// An nftables table.
    Table(#[expect(dead_code, reason = "owned for its Drop")] Table),
    /// Nothing to remove: either nothing was installed, or the kernel removes the filter when the
    /// socket is closed.
    WithSocket,
}

/// An nftables table. Dropping this value deletes the table.
pub struct Table {
    net: Arc<TestNet>,
    family: &'static str,
}

impl Drop for Table {
    fn drop(&mut self) {
        let rules = format!("delete table {} bench\n", self.family);
        if let Err(error) = self.net.receiver.enter(|| nft(&rules)) {
            eprintln!("cannot delete the nftables table `bench`: {error:#}");
        }
    }
}

fn nft(rules: &str) -> Result<()> {
    let shell = Shell::new()?;
    Ok(cmd!(shell, "nft -f -").stdin(rules).quiet().run()?)
}

/// Attaches laminar-xdp in `mode`, and lets it steer to `cpus`. All other settings keep their
/// defaults.
pub fn load(rx: &RxInterface, mode: XdpAttachMode, cpus: &[u32]) -> Result<Installed> {
    let config = XdpConfig::builder()
        .enabled(true)
        .interface(rx.net.interface.as_str())
        .port(PORT)
        .attach_mode(mode)
        .bpf_object_path("/nonexistent")
        .build()?;
    let loader = rx.net.receiver.enter(|| XdpLoader::load_and_attach(&config, cpus))?;
    ensure!(loader.mode() == mode, "laminar-xdp is attached in {} mode", loader.mode());
    ensure!(loader.steers(), "laminar-xdp does not steer: {}", loader.selection());
    Ok(Installed::Loader(Box::new(loader)))
}

fn nftables(rx: &RxInterface, family: &'static str, hook: &str) -> Result<Installed> {
    let magic = LaminarHeader::MAGIC;
    let rules = format!(
        "table {family} bench {{ chain bench {{ {hook}; \
         udp dport {PORT} @th,64,32 != {magic:#x} drop; }}; }}\n"
    );
    rx.net.receiver.enter(|| nft(&rules))?;
    Ok(Installed::Table(Table { net: rx.net.clone(), family }))
}

/// A classic BPF filter that accepts only datagrams with the right magic.
fn magic_filter() -> [SockFilter; 4] {
    const LOAD_WORD: u16 = 0x20;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    [
        // A classic BPF filter on a UDP socket sees each packet from the UDP header on. The UDP
        // header has 8 bytes, so the magic is at offset 8.
        SockFilter::new(LOAD_WORD, 0, 0, 8),
        SockFilter::new(JUMP_IF_EQUAL, 0, 1, LaminarHeader::MAGIC),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
        SockFilter::new(RETURN, 0, 0, 0),
    ]
}
