//! The index and the hardware address of a network interface.

use std::ffi::CString;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

/// The index of an interface in the network namespace of the calling thread.
pub fn interface_index(name: &str) -> Result<i32> {
    let c_name = CString::new(name)?;
    // SAFETY: the name is a C string.
    let index = unsafe { libc::if_nametoindex(c_name.as_ptr()) };
    ensure!(index != 0, "this network namespace has no interface {name}");
    Ok(index.try_into()?)
}

/// The hardware address of an interface that is not in use. Fails if the interface is up or part
/// of another interface, such as a bridge: moving it to a test namespace would cut a connection.
/// After the test the interface is down, so it must be down before the test as well.
pub(crate) fn mac_of_unused(interface: &str) -> Result<[u8; 6]> {
    const IFF_UP: u32 = 1;
    let folder = Path::new("/sys/class/net").join(interface);
    let read = |file: &str| {
        let text = fs::read_to_string(folder.join(file));
        text.with_context(|| format!("interface {interface}")).map(|text| text.trim().to_owned())
    };
    let flags = read("flags")?;
    let flags = flags.strip_prefix("0x").and_then(|text| u32::from_str_radix(text, 16).ok());
    let flags = flags.with_context(|| format!("cannot read the flags of {interface}"))?;
    ensure!(flags & IFF_UP == 0, "{interface} is up; if it is not in use, take it down first");
    for entry in fs::read_dir(&folder)? {
        let name = entry?.file_name();
        let name = name.to_string_lossy();
        let upper = name == "master" || name.starts_with("upper_");
        ensure!(!upper, "{interface} is part of another interface ({name})");
    }
    let text = read("address")?;
    parse_mac(&text).with_context(|| format!("{interface}: {text:?} is not an Ethernet address"))
}

/// The text form of a hardware address.
pub(crate) fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let bytes = text.split(':').map(|byte| u8::from_str_radix(byte, 16).ok());
    bytes.collect::<Option<Vec<u8>>>()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hardware_addresses_have_six_bytes() {
        let mac = [2, 0, 0, 0xab, 0, 1];
        assert_eq!(mac_text(mac), "02:00:00:ab:00:01");
        assert_eq!(parse_mac(&mac_text(mac)), Some(mac));
        assert_eq!(parse_mac("02:00:00:ab:00"), None);
        assert_eq!(parse_mac("00:00:00:00:fe:80:00:00"), None);
    }
}
