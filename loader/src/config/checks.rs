//! Checks that several configurations share.

use crate::config::{ConfigError, XdpConfig};

/// Fails unless a program can filter these ports: 1 to 16 different ports, none of them 0.
pub(crate) fn check_ports(field: &'static str, ports: &[u16]) -> Result<(), ConfigError> {
    check_port_count(field, ports)?;
    check_port_values(field, ports)
}

pub(super) fn check_port_count(field: &'static str, ports: &[u16]) -> Result<(), ConfigError> {
    let max = XdpConfig::MAX_PORTS;
    if (1..=max).contains(&ports.len()) {
        return Ok(());
    }
    let problem = format!("{} ports cannot be filtered; use 1 to {max} in all", ports.len());
    Err(ConfigError::new(field, problem))
}

pub(super) fn check_port_values(field: &'static str, ports: &[u16]) -> Result<(), ConfigError> {
    for (i, port) in ports.iter().enumerate() {
        if *port == 0 {
            return Err(ConfigError::new(field, "0 is not a port; use 1 to 65535"));
        }
        if ports[..i].contains(port) {
            let problem = format!("port {port} is listed twice; list each port once");
            return Err(ConfigError::new(field, problem));
        }
    }
    Ok(())
}

pub(super) fn check_range(field: &'static str, value: u32, max: u32) -> Result<(), ConfigError> {
    match (1..=max).contains(&value) {
        true => Ok(()),
        false => Err(ConfigError::new(field, format!("{value} is out of range; use 1 to {max}"))),
    }
}

pub(super) fn is_interface_name(name: &str) -> bool {
    let allowed = |c: char| !c.is_whitespace() && !c.is_control() && c != '/' && c != ':';
    (1..=15).contains(&name.len()) && name.chars().all(allowed) && name != "." && name != ".."
}

/// Fails unless at least one CPU is listed, and each CPU once. CPUs that the machine does not have
/// pass this check, because it does not ask the machine.
pub(crate) fn check_cpu_list(cpus: &[u32]) -> Result<(), ConfigError> {
    if cpus.is_empty() {
        let problem = "no CPU is listed; list the ids of the CPUs that own partitions";
        return Err(ConfigError::new("cpus", problem));
    }
    for (i, cpu) in cpus.iter().enumerate() {
        if cpus[..i].contains(cpu) {
            let problem = format!("CPU {cpu} is listed twice; list each CPU once");
            return Err(ConfigError::new("cpus", problem));
        }
    }
    Ok(())
}
