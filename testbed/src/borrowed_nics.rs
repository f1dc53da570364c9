//! Existing network interfaces that are moved into test namespaces and back.

use std::fs::File;

use anyhow::Result;

use crate::ethtool::{self, Setting};
use crate::iproute::ip;
use crate::namespace::Namespace;
use crate::sys::fd_path;

/// Two interfaces that were moved into test namespaces. Dropping this value moves both back and
/// restores the ethtool setting that was saved for each interface. If the process is killed, the
/// kernel moves network cards back to the initial namespace and removes virtual devices.
#[derive(Debug)]
pub(crate) struct BorrowedNics {
    home: File,
    nics: Vec<BorrowedNic>,
}

#[derive(Debug)]
struct BorrowedNic {
    interface: String,
    namespace: Namespace,
    setting: Setting,
    original: u32,
}

impl BorrowedNics {
    /// Moves each interface from the namespace of the calling thread into the given namespace.
    /// Saves the value of the given setting first, because the caller is about to change it.
    pub fn move_into(interfaces: [(&str, &Namespace, Setting); 2]) -> Result<BorrowedNics> {
        let home = File::open("/proc/thread-self/ns/net")?;
        let mut borrowed = BorrowedNics { home, nics: Vec::new() };
        for (interface, namespace, setting) in interfaces {
            let original = ethtool::get(interface, setting)?;
            let namespace = namespace.try_clone()?;
            ip(&format!("link set dev {interface} netns {}\n", namespace.path()))?;
            let interface = interface.into();
            borrowed.nics.push(BorrowedNic { interface, namespace, setting, original });
        }
        Ok(borrowed)
    }
}

impl BorrowedNic {
    fn give_back(&self, home: &str) -> Result<()> {
        let BorrowedNic { interface, setting, original, .. } = self;
        // Report a failed restore only after the interface has moved back.
        let restored = match ethtool::get(interface, *setting) {
            Ok(now) if now == *original => Ok(()),
            _ => ethtool::set(interface, *setting, *original),
        };
        ip(&format!("link set dev {interface} down netns {home}\n"))?;
        restored
    }
}

impl Drop for BorrowedNics {
    fn drop(&mut self) {
        let home = fd_path(&self.home);
        for nic in &self.nics {
            if let Err(error) = nic.namespace.enter(|| nic.give_back(&home)) {
                eprintln!("cannot restore interface {}: {error:#}", nic.interface);
            }
        }
    }
}
