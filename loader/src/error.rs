//! Everything that can go wrong, in words for the person who has to act.

use std::fmt;
use std::io;
use std::net::SocketAddr;

use crate::artifact::ArtifactError;
use crate::config::XdpAttachMode;
use crate::select::Selection;

/// Why something is not, or no longer, at work. Whatever the error of a call that starts
/// something, nothing that it did is left on the interface.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum XdpError {
    /// [`crate::XdpConfig::enabled`] is false.
    #[error("XDP is switched off in the configuration; set `enabled` to use it")]
    Disabled,

    /// The operating system has no XDP.
    #[error("XDP is not supported on this platform ({platform}), only on Linux; use plain sockets")]
    UnsupportedPlatform {
        /// The platform, as Rust names it.
        platform: &'static str,
    },

    /// A value that cannot be used, found before anything was touched.
    #[error("configuration: {field}: {problem}")]
    Config {
        /// The field or argument.
        field: &'static str,
        /// What is wrong with its value, and what would be right.
        problem: String,
    },

    /// The objects cannot be found or trusted.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),

    /// The process may not do it.
    #[error(
        "this process lacks {capability}, without which the kernel does not let it {purpose}; \
         run as root or grant the capability \
         (`setcap cap_bpf,cap_perfmon,cap_net_admin,cap_net_raw+ep PROGRAM`, or AmbientCapabilities= in a systemd unit)"
    )]
    MissingCapability {
        /// The capability by name.
        capability: &'static str,
        /// What it is needed for.
        purpose: &'static str,
    },

    /// The kernel was built without BPF, or something forbids the system call.
    #[error(
        "this kernel has no bpf() system call ({reason}): it was built without CONFIG_BPF_SYSCALL, \
         or a seccomp filter hides it; use another kernel, or plain sockets"
    )]
    KernelWithoutBpf {
        /// The kernel's answer.
        reason: io::Error,
    },

    /// No interface has that name in this network namespace.
    #[error("there is no interface {interface:?} in this network namespace; `ip link` lists them")]
    InterfaceNotFound {
        /// The name that was asked for.
        interface: String,
    },

    /// Another program is attached, and it was left alone.
    #[error(
        "{interface} already carries the XDP program {holder}, which was left alone; \
         stop its owner (`bpftool net` shows where it is attached, `bpftool link` who holds it), \
         or take it off: `ip link set dev {interface} xdp off` (native), `xdpgeneric off` (generic), \
         `bpftool link detach id` (held by a link)"
    )]
    Busy {
        /// The interface.
        interface: String,
        /// The program that holds it.
        holder: ProgramIdentity,
    },

    /// Every object was refused or failed, in every mode; the selection says why, one by
    /// one.
    #[error(
        "no XDP object can be used here; go by the reason that each line gives, or use plain \
         sockets:\n{selection}"
    )]
    NoUsableObject {
        /// Each object with its reason.
        selection: Box<Selection>,
    },

    /// The program was loaded, but the interface does not take it.
    #[error(
        "the XDP program cannot be attached to {interface} in {mode} mode: {reason}{}; {advice}",
        kernel_message.as_ref().map(|text| format!(" (kernel: {text})")).unwrap_or_default()
    )]
    Attach {
        /// The interface.
        interface: String,
        /// The mode that failed.
        mode: XdpAttachMode,
        /// The kernel's error.
        reason: io::Error,
        /// The kernel's explanation, where it gave one.
        kernel_message: Option<String>,
        /// What to do.
        advice: String,
    },

    /// The kernel refused an operation that it should not refuse.
    #[error(
        "cannot {action}: {reason}; try again, and if it stays report it with `uname -r` and \
         the end of `dmesg`"
    )]
    Kernel {
        /// What was tried, with its values.
        action: String,
        /// The kernel's error.
        reason: io::Error,
    },

    /// Somebody has the port.
    #[error(
        "{address} is taken{}; stop who has it (`ss -ulnp`), or use another port",
        holder.as_ref().map(|holder| format!(" by {holder}")).unwrap_or_default()
    )]
    PortTaken {
        /// What was to be bound.
        address: SocketAddr,
        /// Who has it, as far as this process may know.
        holder: Option<PortHolder>,
    },

    /// One socket for each core is more than the process may open.
    #[error(
        "{cores} cores need as many sockets and some descriptors more, but no more files can be \
         opened: {reason}; raise the limit (`ulimit -n`, or LimitNOFILE= in a systemd unit), or \
         use fewer cores"
    )]
    TooManySockets {
        /// How many were wanted.
        cores: usize,
        /// The system's error.
        reason: io::Error,
    },

    /// An operation on a socket failed.
    #[error("cannot {action}: {reason}; {advice}")]
    Socket {
        /// What was tried, with its values.
        action: String,
        /// The system's error.
        reason: io::Error,
        /// What to do.
        advice: &'static str,
    },

    /// A partition could not be moved yet.
    #[error("partition {partition} cannot leave CPU {from}: {problem}")]
    NotMoved {
        /// The partition.
        partition: u32,
        /// The CPU that owns it.
        from: u32,
        /// Why, and what to do.
        problem: String,
    },

    /// One process could not take over from another.
    #[error("the hand-over failed: {problem}")]
    HandOver {
        /// What went wrong, on which side, and what to do.
        problem: String,
    },

    /// Steering was asked of an attachment that only filters.
    #[error(
        "this attachment filters but does not steer, because redirected packets could be lost \
         (`XdpLoader::selection` says why); use native mode, or in generic mode the object \
         linux-5.9 on Linux 5.15 and later"
    )]
    FilterOnly,
}

impl XdpError {
    /// A socket that worked does not any more.
    pub(crate) fn socket(action: impl Into<String>, reason: io::Error) -> Self {
        let advice = "try again, and if it stays report it with `uname -r`";
        XdpError::Socket { action: action.into(), reason, advice }
    }

    pub(crate) fn config(field: &'static str, problem: impl Into<String>) -> Self {
        XdpError::Config { field, problem: problem.into() }
    }
}

/// Who has a UDP port, as far as it can be known.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PortHolder {
    /// The user's id.
    pub user: u32,
    /// Id and name of the process; `None` if this one may not look, or it is in another
    /// process namespace.
    pub process: Option<(u32, String)>,
}

impl fmt::Display for PortHolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.process {
            Some((id, name)) => write!(f, "process {id} ({name}) of user {}", self.user),
            None => write!(f, "user {} (run as root to see which process)", self.user),
        }
    }
}

/// A loaded BPF program, as far as it can be known.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProgramIdentity {
    /// The kernel's id, as `bpftool prog` shows it.
    pub id: u32,
    /// Its name; `None` if this process may not ask (CAP_SYS_ADMIN).
    pub name: Option<String>,
    /// Its tag, a hash of its instructions; `None` like the name.
    pub tag: Option<String>,
}

impl fmt::Display for ProgramIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "id {}", self.id)?;
        match &self.name {
            Some(name) => write!(f, " name {name:?}")?,
            None => write!(f, " (its name is for CAP_SYS_ADMIN only)")?,
        }
        self.tag.as_ref().map_or(Ok(()), |tag| write!(f, " tag {tag}"))
    }
}

/// What the kernel's verifier wrote about a program that it refused. Shown, it
/// is the last lines, which hold the verdict; `{:#}` shows all of it.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize)]
pub struct VerifierLog(String);

impl VerifierLog {
    /// How many lines the short form has.
    const SHORT_LINES: usize = 4;

    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// All of it; empty if the verifier was never asked.
    pub fn text(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for VerifierLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<_> = self.0.lines().filter(|line| !line.trim().is_empty()).collect();
        let hidden = if f.alternate() { 0 } else { lines.len().saturating_sub(Self::SHORT_LINES) };
        if hidden > 0 {
            writeln!(f, "[{hidden} lines before]")?;
        }
        f.write_str(&lines[hidden..].join("\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verifier_log_is_short_unless_asked() {
        let text: String = (1..=10).map(|line| format!("line {line}\n")).collect();
        let log = VerifierLog::new(text);
        assert_eq!(log.to_string(), "[6 lines before]\nline 7\nline 8\nline 9\nline 10");
        assert_eq!(format!("{log:#}").lines().count(), 10);
        assert_eq!(VerifierLog::default().to_string(), "");
    }
}
