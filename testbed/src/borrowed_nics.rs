//! Existing network interfaces that are moved into test namespaces and back.

use std::fs::File;

use anyhow::Result;

use crate::ethtool::{self, Setting};
use crate::iproute::ip;
use crate::namespace::Namespace;
use crate::sys::fd_path;

/// Two interfaces that are in other namespaces. Dropping this value moves them back and
/// restores the one setting of each that was changed. If the process is killed, the kernel
/// moves network cards back to the initial namespace and removes virtual devices.
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
    /// Moves each interface from the namespace of the calling thread into another one. The
    /// setting is the one that the caller is going to change there.
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
        // The interface has to move back even if its setting cannot be restored.
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
                eprintln!("{} did not come back in its original state: {error:#}", nic.interface);
            }
        }
    }
}
