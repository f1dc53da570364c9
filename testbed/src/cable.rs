//! Interfaces that were there before, lent to a wire.

use std::fs::{self, File};
use std::os::fd::AsRawFd;

use anyhow::{Context, Result, ensure};
use xshell::{Shell, cmd};

use crate::ethtool::{self, Setting};
use crate::namespace::Namespace;
use crate::wire::ip;

/// Two interfaces that are away from home, until this is dropped: then they are there
/// again, each with the one setting that was changed as it was. If the process is killed,
/// the kernel brings network cards home; virtual devices end with their namespace.
#[derive(Debug)]
pub(crate) struct Cable {
    home: File,
    away: Vec<Away>,
}

#[derive(Debug)]
struct Away {
    interface: String,
    namespace: Namespace,
    setting: Setting,
    before: u32,
}

impl Cable {
    /// Moves each interface from this thread's namespace into another. The setting is the
    /// one that will be changed there.
    pub fn move_into(interfaces: [(&str, &Namespace, Setting); 2]) -> Result<Cable> {
        let home = File::open("/proc/thread-self/ns/net")?;
        let mut cable = Cable { home, away: Vec::new() };
        for (interface, namespace, setting) in interfaces {
            let before = ethtool::get(interface, setting)?;
            let namespace = namespace.try_clone()?;
            ip(&format!("link set dev {interface} netns {}\n", namespace.path()))?;
            cable.away.push(Away { interface: interface.into(), namespace, setting, before });
        }
        Ok(cable)
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        let home = format!("/proc/{}/fd/{}", std::process::id(), self.home.as_raw_fd());
        for Away { interface, namespace, setting, before } in &self.away {
            let back = || {
                ethtool::set(interface, *setting, *before)?;
                ip(&format!("link set dev {interface} netns {home}\n"))
            };
            if let Err(error) = namespace.enter(back) {
                eprintln!("{interface} did not come back as it was: {error:#}");
            }
        }
    }
}

/// The hardware address of an interface, which must have no address of a network: a
/// measurement must not take somebody's connection away.
pub(crate) fn mac_of_unused(interface: &str) -> Result<[u8; 6]> {
    let shell = Shell::new()?;
    let addresses = cmd!(shell, "ip -oneline address show dev {interface} scope global");
    let addresses = addresses.quiet().read().with_context(|| format!("interface {interface}"))?;
    ensure!(addresses.is_empty(), "{interface} is in use: {addresses}");
    let text = fs::read_to_string(format!("/sys/class/net/{interface}/address"))?;
    let bytes: Vec<u8> = text
        .trim()
        .split(':')
        .map(|byte| u8::from_str_radix(byte, 16))
        .collect::<Result<_, _>>()
        .with_context(|| format!("{interface}: hardware address {text:?}"))?;
    bytes.try_into().ok().with_context(|| format!("{interface} is not an Ethernet device"))
}
