//! The ways to get rid of junk.

use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use laminar_xdp::{LaminarHeader, XdpAttachMode, XdpConfig, XdpLoader};
use socket2::{SockFilter, Socket};
use testbed::{TestNet, bpf};
use xshell::{Shell, cmd};

use crate::receiving::{PORT, Receiving};

/// A way to get rid of junk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contender {
    /// An XDP program in native mode that drops everything and looks at nothing: what
    /// receiving costs at least.
    Floor,
    /// laminar-xdp in native mode.
    Native,
    /// laminar-xdp in generic mode.
    Generic,
    /// nftables, as soon as a packet is there.
    NftablesIngress,
    /// nftables, in front of routing and connection tracking.
    NftablesRaw,
    /// A classic BPF filter on the socket.
    SocketFilter,
    /// The application itself.
    Application,
}

impl Contender {
    /// All of them, the one that ratios are taken of first.
    pub const ALL: [Contender; 7] = [
        Contender::Floor,
        Contender::Native,
        Contender::Generic,
        Contender::NftablesIngress,
        Contender::NftablesRaw,
        Contender::SocketFilter,
        Contender::Application,
    ];

    /// Those that can be had here; the others are named in `left_out`.
    pub fn available(left_out: &mut Vec<String>) -> Result<Vec<Contender>> {
        let shell = Shell::new()?;
        let nft = cmd!(shell, "nft --version").quiet().ignore_stderr().read();
        let mut all = Contender::ALL.to_vec();
        if let Err(error) = nft {
            left_out.push(format!("nftables: {error}; Debian's nftables has it"));
            all.retain(|one| !matches!(one, Contender::NftablesIngress | Contender::NftablesRaw));
        }
        Ok(all)
    }

    /// Puts it between the wire and the application's socket, until the answer is dropped.
    pub fn put_up(self, receiving: &mut Receiving, socket: &Socket, cpu: u32) -> Result<Held> {
        let held = self.hold(receiving, socket, cpu)?;
        receiving.settle()?;
        Ok(held)
    }

    fn hold(self, receiving: &Receiving, socket: &Socket, cpu: u32) -> Result<Held> {
        let wire = &receiving.wire;
        match self {
            Contender::Floor => {
                let program = bpf::empty_program(c"floor", bpf::XDP_DROP)?;
                let link = wire.receiver.enter(|| bpf::attach(&program, &wire.interface))?;
                Ok(Held::Link(link))
            }
            Contender::Native => load(receiving, XdpAttachMode::Native, &[cpu]),
            Contender::Generic => load(receiving, XdpAttachMode::Generic, &[cpu]),
            Contender::NftablesIngress => {
                let interface = &wire.interface;
                nftables(
                    receiving,
                    "netdev",
                    &format!("type filter hook ingress device {interface} priority 0"),
                )
            }
            Contender::NftablesRaw => {
                nftables(receiving, "ip", "type filter hook prerouting priority raw")
            }
            Contender::SocketFilter => {
                socket.attach_filter(&filter()).context("classic BPF filter")?;
                Ok(Held::Elsewhere)
            }
            Contender::Application => Ok(Held::Elsewhere),
        }
    }
}

impl fmt::Display for Contender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Contender::Floor => "empty program, native",
            Contender::Native => "laminar-xdp, native",
            Contender::Generic => "laminar-xdp, generic",
            Contender::NftablesIngress => "nftables, ingress",
            Contender::NftablesRaw => "nftables, raw",
            Contender::SocketFilter => "classic BPF on the socket",
            Contender::Application => "the application itself",
        })
    }
}

/// What keeps a contender in its place.
pub enum Held {
    /// The link of a program.
    Link(#[expect(dead_code, reason = "held")] OwnedFd),
    /// laminar-xdp.
    Loader(#[expect(dead_code, reason = "held")] Box<XdpLoader>),
    /// A table of nftables.
    Table(#[expect(dead_code, reason = "held")] Table),
    /// It ends with the socket.
    Elsewhere,
}

/// A table of nftables that is removed with this.
pub struct Table {
    wire: Arc<TestNet>,
    family: &'static str,
}

impl Drop for Table {
    fn drop(&mut self) {
        let rules = format!("delete table {} bench\n", self.family);
        if let Err(error) = self.wire.receiver.enter(|| nft(&rules)) {
            eprintln!("a table of nftables is left: {error:#}");
        }
    }
}

fn nft(rules: &str) -> Result<()> {
    let shell = Shell::new()?;
    Ok(cmd!(shell, "nft -f -").stdin(rules).quiet().run()?)
}

/// laminar-xdp as it is by default, for these CPUs.
pub fn load(receiving: &Receiving, mode: XdpAttachMode, cores: &[u32]) -> Result<Held> {
    let wire = &receiving.wire;
    let config = XdpConfig::builder()
        .enabled(true)
        .interface(wire.interface.as_str())
        .port(PORT)
        .attach_mode(mode)
        .bpf_object_path("/nonexistent")
        .build()?;
    let loader = wire.receiver.enter(|| XdpLoader::load_and_attach(&config, cores))?;
    ensure!(loader.mode() == mode, "it is attached in {} mode", loader.mode());
    ensure!(loader.steers(), "it does not steer: {}", loader.selection());
    Ok(Held::Loader(Box::new(loader)))
}

fn nftables(receiving: &Receiving, family: &'static str, hook: &str) -> Result<Held> {
    let magic = LaminarHeader::MAGIC;
    let rules = format!(
        "table {family} bench {{ chain bench {{ {hook}; \
         udp dport {PORT} @th,64,32 != {magic:#x} drop; }}; }}\n"
    );
    receiving.wire.receiver.enter(|| nft(&rules))?;
    Ok(Held::Table(Table { wire: receiving.wire.clone(), family }))
}

/// Lets through what has the magic behind the UDP header.
fn filter() -> [SockFilter; 4] {
    const LOAD_WORD: u16 = 0x20;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    [
        SockFilter::new(LOAD_WORD, 0, 0, 8),
        SockFilter::new(JUMP_IF_EQUAL, 0, 1, LaminarHeader::MAGIC),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
        SockFilter::new(RETURN, 0, 0, 0),
    ]
}
