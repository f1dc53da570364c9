//! A network interface: its name, index and driver, and its receive packet steering.

use std::ffi::CString;
use std::fs;

use crate::ids::InterfaceIndex;
use crate::report::XdpError;
use crate::sys::netdev;

/// An interface in the network namespace of the thread that looked it up.
#[derive(Debug, Clone)]
pub struct Interface {
    pub name: String,
    pub index: InterfaceIndex,
    /// The driver's name; `None` if the driver does not report one.
    pub driver: Option<String>,
}

impl Interface {
    pub fn find(name: &str) -> Result<Interface, XdpError> {
        let not_found = || XdpError::InterfaceNotFound { interface: name.into() };
        let c_name = CString::new(name).map_err(|_| not_found())?;
        let index = netdev::index(&c_name).map_err(|error| match error.raw_os_error() {
            Some(libc::ENODEV) => not_found(),
            _ => XdpError::kernel(format!("look up interface {name}"), error),
        })?;
        Ok(Interface { name: name.into(), index, driver: netdev::driver(&c_name) })
    }

    /// Whether receive packet steering (RPS) moves the interface's packets to other CPUs. Also
    /// false if /sys shows a network namespace other than the interface's.
    pub fn has_receive_packet_steering(&self) -> bool {
        let folder = format!("/sys/class/net/{}", self.name);
        let index = fs::read_to_string(format!("{folder}/ifindex")).unwrap_or_default();
        if index.trim() != self.index.to_string() {
            return false; // /sys shows another network namespace
        }
        let queues = fs::read_dir(format!("{folder}/queues")).into_iter().flatten().flatten();
        let mut masks =
            queues.filter_map(|queue| fs::read_to_string(queue.path().join("rps_cpus")).ok());
        masks.any(|mask| mask.trim().chars().any(|c| c != '0' && c != ','))
    }
}
