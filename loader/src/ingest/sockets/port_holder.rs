//! Finds the process that holds a UDP port, as far as this process may see it.

use std::fs;
use std::path::Path;

use crate::report::PortHolder;

/// Finds the holder of a port in this thread's network namespace.
pub fn find(port: u16) -> Option<PortHolder> {
    let mut sockets = Vec::new();
    for table in ["udp", "udp6"] {
        let text = fs::read_to_string(format!("/proc/thread-self/net/{table}"));
        let text = text.unwrap_or_default();
        sockets.extend(text.lines().filter_map(|line| parse_entry(line, port)));
    }
    let (user, _) = *sockets.first()?;
    let process = sockets.iter().find_map(|(_, inode)| process_with(*inode));
    Some(PortHolder { user, process })
}

/// Parses a line of the kernel's table of UDP sockets. Returns the user and the inode of the
/// socket if its local port is `port`.
fn parse_entry(line: &str, port: u16) -> Option<(u32, u64)> {
    let mut fields = line.split_whitespace();
    let (_, local_port) = fields.nth(1)?.split_once(':')?;
    let matches = u16::from_str_radix(local_port, 16) == Ok(port);
    let user = fields.nth(5)?.parse().ok()?;
    let inode = fields.nth(1)?.parse().ok()?;
    matches.then_some((user, inode))
}

/// Id and name of the first process that has the socket with this inode open.
fn process_with(inode: u64) -> Option<(u32, String)> {
    let link = format!("socket:[{inode}]");
    let has_socket = |process: &Path| {
        let descriptors = fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
        descriptors
            .filter_map(|descriptor| fs::read_link(descriptor.path()).ok())
            .any(|target| target.as_os_str() == link.as_str())
    };
    fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let id = entry.file_name().to_str()?.parse().ok()?;
        let name = fs::read_to_string(entry.path().join("comm")).ok()?;
        has_socket(&entry.path()).then(|| (id, name.trim().to_string()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_of_the_kernels_table_is_parsed() {
        let line = " 1126: 00000000:270F 00000000:0000 07 00000000:00000000 00:00000000 00000000  \
                    1000        0 20480 2 0000000000000000 0";
        assert_eq!(parse_entry(line, 9999), Some((1000, 20480)));
        assert_eq!(parse_entry(line, 9998), None);
        let heading = "  sl  local_address rem_address   st tx_queue rx_queue";
        assert_eq!(parse_entry(heading, 9999), None);
    }

    #[test]
    fn a_port_of_this_process_is_found() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let holder = find(socket.local_addr().unwrap().port()).unwrap();
        assert_eq!(holder.process.unwrap().0, std::process::id());
    }
}
