//! What the caller may do. The runner finds out once, before it starts a thread.

use std::fs;
use std::io;
use std::sync::OnceLock;

use anyhow::{Context, Result, ensure};

use super::ingest::loopback;

/// What the tests of this process may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Privileges {
    /// Root in the initial user namespace: BPF programs and network namespaces.
    Root,
    /// Root in a user namespace: network namespaces, but no BPF programs.
    UserNamespace,
    /// Neither, with the reason.
    Neither(String),
}

impl Privileges {
    /// Whether the kernel lets this process load BPF programs.
    pub fn load_programs(&self) -> bool {
        *self == Privileges::Root
    }
}

static PRIVILEGES: OnceLock<Privileges> = OnceLock::new();

/// The privileges of this process.
pub fn privileges() -> &'static Privileges {
    PRIVILEGES.get().expect("the runner acquires privileges first")
}

/// Enters a user namespace unless the caller is root. Must be called before the process
/// starts a second thread: the kernel moves only single-threaded processes.
pub fn acquire_privileges() -> &'static Privileges {
    PRIVILEGES.get_or_init(|| {
        if is_root() {
            return Privileges::Root;
        }
        match enter_user_namespace() {
            Ok(()) => Privileges::UserNamespace,
            Err(error) => Privileges::Neither(format!("needs root or a user namespace: {error:#}")),
        }
    })
}

fn is_root() -> bool {
    // Root of a container may be root of another user namespace only, which cannot load
    // BPF programs. The initial user namespace maps every id to itself. A kernel without
    // user namespaces does not have the file.
    let map = fs::read_to_string("/proc/self/uid_map");
    let initial = map.map_or(true, |map| map.split_whitespace().eq(["0", "0", "4294967295"]));
    initial && testbed::missing_privileges().is_none()
}

fn enter_user_namespace() -> Result<()> {
    // SAFETY: neither call has a precondition, and neither fails.
    let (user, group) = unsafe { (libc::geteuid(), libc::getegid()) };
    // SAFETY: no pointer is passed.
    let answer = unsafe { libc::unshare(libc::CLONE_NEWUSER) };
    ensure!(answer == 0, "unshare(CLONE_NEWUSER): {}", io::Error::last_os_error());
    // The kernel maps a group for an unprivileged user only after this.
    fs::write("/proc/self/setgroups", "deny").context("/proc/self/setgroups")?;
    // `ip` is a process of its own, and only root keeps its capabilities across exec.
    fs::write("/proc/self/uid_map", format!("0 {user} 1")).context("/proc/self/uid_map")?;
    fs::write("/proc/self/gid_map", format!("0 {group} 1")).context("/proc/self/gid_map")?;
    // AppArmor can allow the namespace and still refuse what its capabilities stand for.
    loopback().context("make a network namespace in it").map(drop)
}
