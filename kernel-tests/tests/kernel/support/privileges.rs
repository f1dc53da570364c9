//! The privileges of this process. The runner determines them once, before it starts any thread.

use std::fs;
use std::io;
use std::sync::OnceLock;

use anyhow::{Context, Result, ensure};

use super::ingest::loopback;

/// What the tests in this process are allowed to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Privileges {
    /// Root in the initial user namespace: may load BPF programs and create network namespaces.
    Root,
    /// Root in another user namespace: may create network namespaces, but not load BPF programs.
    UserNamespace,
    /// May neither load BPF programs nor create network namespaces. The string is the reason.
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

/// Enters a user namespace unless the process is root. Must be called before the process starts
/// a second thread, because only a single-threaded process can enter a user namespace.
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
    // Root in a container may be root in another user namespace, and such a process cannot load BPF
    // programs. Only the initial user namespace maps every id to itself. On a kernel without user
    // namespaces, the file `uid_map` does not exist.
    let map = fs::read_to_string("/proc/self/uid_map");
    let initial = map.map_or(true, |map| map.split_whitespace().eq(["0", "0", "4294967295"]));
    initial && testbed::missing_privileges().is_none()
}

fn enter_user_namespace() -> Result<()> {
    // SAFETY: both calls have no precondition and cannot fail.
    let (user, group) = unsafe { (libc::geteuid(), libc::getegid()) };
    // SAFETY: the call takes no pointer.
    let answer = unsafe { libc::unshare(libc::CLONE_NEWUSER) };
    ensure!(answer == 0, "unshare(CLONE_NEWUSER): {}", io::Error::last_os_error());
    // Without this line, the kernel refuses the `gid_map` of an unprivileged user.
    fs::write("/proc/self/setgroups", "deny").context("/proc/self/setgroups")?;
    // Map the user to root: when the process executes `ip`, the kernel keeps the capabilities only
    // for root.
    fs::write("/proc/self/uid_map", format!("0 {user} 1")).context("/proc/self/uid_map")?;
    fs::write("/proc/self/gid_map", format!("0 {group} 1")).context("/proc/self/gid_map")?;
    // Try to create a network namespace: AppArmor can allow the user namespace and still refuse the
    // operations that need the capabilities of that namespace.
    loopback().context("cannot create a network namespace in a user namespace").map(drop)
}
