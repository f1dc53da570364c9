//! Interfaces that were there before, lent to a wire.

use std::fs::{self, File};
use std::os::fd::AsRawFd;

use anyhow::{Context, Result, ensure};
use xshell::{Shell, cmd};

use crate::namespace::Namespace;
use crate::wire::ip;

/// Two interfaces that are away from home, until this is dropped. If the process is
/// killed, the kernel brings network cards home; virtual devices end with their namespace.
#[derive(Debug)]
pub(crate) struct Cable {
    home: File,
    away: Vec<(String, Namespace)>,
}

impl Cable {
    /// Moves each interface from this thread's namespace into another.
    pub fn move_into(interfaces: [(&str, &Namespace); 2]) -> Result<Cable> {
        let home = File::open("/proc/thread-self/ns/net")?;
        let mut cable = Cable { home, away: Vec::new() };
        for (interface, namespace) in interfaces {
            ip(&format!("link set dev {interface} netns {}\n", namespace.path()))?;
            cable.away.push((interface.into(), namespace.try_clone()?));
        }
        Ok(cable)
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        let home = format!("/proc/{}/fd/{}", std::process::id(), self.home.as_raw_fd());
        for (interface, namespace) in &self.away {
            let back = || ip(&format!("link set dev {interface} netns {home}\n"));
            if let Err(error) = namespace.enter(back) {
                eprintln!("{interface} did not come back: {error:#}");
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
