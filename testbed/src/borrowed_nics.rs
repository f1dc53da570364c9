//! Interfaces that were there before, lent to a wire.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::ethtool::{self, Setting};
use crate::iproute::ip;
use crate::namespace::Namespace;

/// Two interfaces that are away from home, until this is dropped: then they are there
/// again, each with the one setting that was changed as it was. If the process is killed,
/// the kernel brings network cards home; virtual devices end with their namespace.
#[derive(Debug)]
pub(crate) struct BorrowedNics {
    home: File,
    away: Vec<BorrowedNic>,
}

#[derive(Debug)]
struct BorrowedNic {
    interface: String,
    namespace: Namespace,
    setting: Setting,
    before: u32,
}

impl BorrowedNics {
    /// Moves each interface from this thread's namespace into another. The setting is the
    /// one that will be changed there.
    pub fn move_into(interfaces: [(&str, &Namespace, Setting); 2]) -> Result<BorrowedNics> {
        let home = File::open("/proc/thread-self/ns/net")?;
        let mut nics = BorrowedNics { home, away: Vec::new() };
        for (interface, namespace, setting) in interfaces {
            let before = ethtool::get(interface, setting)?;
            let namespace = namespace.try_clone()?;
            ip(&format!("link set dev {interface} netns {}\n", namespace.path()))?;
            nics.away.push(BorrowedNic { interface: interface.into(), namespace, setting, before });
        }
        Ok(nics)
    }
}

impl Drop for BorrowedNics {
    fn drop(&mut self) {
        let home = format!("/proc/{}/fd/{}", std::process::id(), self.home.as_raw_fd());
        for BorrowedNic { interface, namespace, setting, before } in &self.away {
            let back = || {
                // Home in any case, and what went wrong before is said then.
                let restored = match ethtool::get(interface, *setting) {
                    Ok(now) if now == *before => Ok(()),
                    _ => ethtool::set(interface, *setting, *before),
                };
                ip(&format!("link set dev {interface} down netns {home}\n"))?;
                restored
            };
            if let Err(error) = namespace.enter(back) {
                eprintln!("{interface} did not come back as it was: {error:#}");
            }
        }
    }
}

/// The hardware address of an interface that nobody uses: it is down, and part of nothing
/// else. A measurement must not take somebody's connection away, and what is down is as it
/// was when it comes back.
pub(crate) fn mac_of_unused(interface: &str) -> Result<[u8; 6]> {
    const IFF_UP: u32 = 1;
    let folder = Path::new("/sys/class/net").join(interface);
    let read = |file: &str| {
        let text = fs::read_to_string(folder.join(file));
        text.with_context(|| format!("interface {interface}")).map(|text| text.trim().to_owned())
    };
    let flags = read("flags")?;
    let flags = flags.strip_prefix("0x").and_then(|text| u32::from_str_radix(text, 16).ok());
    let flags = flags.with_context(|| format!("{interface} has no flags"))?;
    ensure!(flags & IFF_UP == 0, "{interface} is up: take it down first if nobody uses it");
    for entry in fs::read_dir(&folder)? {
        let name = entry?.file_name();
        let name = name.to_string_lossy();
        let part = name == "master" || name.starts_with("upper_");
        ensure!(!part, "{interface} is part of another interface ({name})");
    }
    let text = read("address")?;
    let bytes: Vec<u8> = text
        .split(':')
        .map(|byte| u8::from_str_radix(byte, 16))
        .collect::<Result<_, _>>()
        .with_context(|| format!("{interface}: hardware address {text:?}"))?;
    bytes.try_into().ok().with_context(|| format!("{interface} is not an Ethernet device"))
}
