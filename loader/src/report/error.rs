//! The errors of this crate.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::artifact::ArtifactError;
use crate::config::{ConfigError, XdpAttachMode};
use crate::report::causes::{WithCauses, causes};
use crate::report::{PortHolder, ProgramIdentity, Selection};

/// Why an operation failed.
///
/// The message states the operation that failed, its object, and what to do. The message does not
/// contain the cause: [`source`](std::error::Error::source) returns the cause.
/// [`XdpError::with_causes`] shows the message and the causes.
///
/// If a call that attaches a program fails, the call leaves no program of its own on the interface.
///
/// ```
/// use laminar_xdp::{XdpConfig, XdpError, XdpLoader};
///
/// # fn start() {
/// match XdpLoader::load_and_attach(&XdpConfig::default(), &[0, 1]) {
///     Ok(loader) => println!("{}", loader.selection()),
///     Err(XdpError::Disabled) => println!("running without XDP"),
///     Err(XdpError::Busy { holder, .. }) => println!("another program is attached: {holder}"),
///     Err(error) => eprintln!("{}", error.with_causes()),
/// }
/// # }
/// ```
///
/// Errors can be cloned, for example to log one and return it.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum XdpError {
    /// [`XdpConfig::enabled`](crate::XdpConfig::enabled) is false.
    #[error("XDP is disabled in the configuration; set `enabled` to use it")]
    Disabled,

    /// The operating system has no XDP.
    #[error("XDP is not supported on this platform ({platform}), only on Linux; use plain sockets")]
    UnsupportedPlatform {
        /// The platform's name as in [`std::env::consts::OS`].
        platform: &'static str,
    },

    /// A configured value cannot be used. Nothing on the machine has changed.
    #[error(transparent)]
    Config(#[from] ConfigError),

    /// The objects cannot be found, or they cannot be trusted.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),

    /// The process lacks a capability.
    #[error(
        "this process lacks {capability}, without which the kernel does not let it {purpose}; \
         run as root or grant the capability \
         (`setcap cap_bpf,cap_perfmon,cap_net_admin,cap_net_raw+ep PROGRAM`, or \
         AmbientCapabilities= in a systemd unit)"
    )]
    MissingCapability {
        /// The capability's name.
        capability: &'static str,
        /// What the capability is needed for.
        purpose: &'static str,
    },

    /// The kernel was built without BPF, or a seccomp filter hides the bpf() system call.
    #[error("this kernel has no bpf() system call; {}", Self::WITHOUT_BPF)]
    KernelWithoutBpf {
        /// The kernel's error.
        source: Arc<io::Error>,
    },

    /// No interface has this name in the network namespace of the calling thread.
    #[error("there is no interface {interface:?} in this network namespace; `ip link` lists them")]
    InterfaceNotFound {
        /// The configured name.
        interface: String,
    },

    /// Another program is attached to the interface. It was not replaced.
    #[error(
        "{interface} already has the XDP program {holder}, which was not replaced; stop the \
         process that attached it (`bpftool net` shows programs, `bpftool link` the processes \
         that hold links), or detach it: `ip link set dev {interface} xdp off` (native), \
         `xdpgeneric off` (generic), `bpftool link detach id` (held by a link)"
    )]
    Busy {
        /// The interface.
        interface: String,
        /// The attached program.
        holder: ProgramIdentity,
    },

    /// No object could be used in any mode. The selection gives the reason for each object.
    #[error(
        "no XDP object can be used here; fix the problem that is listed for one of the objects, \
         or use plain sockets:\n{selection}"
    )]
    NoUsableObject {
        /// Each object with its reason.
        selection: Box<Selection>,
    },

    /// The program was loaded, but it cannot be attached to the interface.
    #[error(
        "the XDP program cannot be attached to {interface} in {mode} mode{}; {advice}",
        kernel_message.as_ref().map(|text| format!(" (kernel: {text})")).unwrap_or_default()
    )]
    Attach {
        /// The interface.
        interface: String,
        /// The mode that failed.
        mode: XdpAttachMode,
        /// The kernel's explanation, if it gave one.
        kernel_message: Option<String>,
        /// What to do.
        advice: String,
        /// The kernel's error.
        source: Arc<io::Error>,
    },

    /// The kernel refused an operation that normally succeeds.
    #[error("cannot {action}; {}", Self::REPORT_KERNEL)]
    Kernel {
        /// The operation, with its values.
        action: String,
        /// The kernel's error.
        source: Arc<io::Error>,
    },

    /// The port is in use.
    #[error(
        "{address} is in use{}; stop the process that holds it (`ss -ulnp` shows it), or use \
         another port",
        holder.as_ref().map(|holder| format!(" by {holder}")).unwrap_or_default()
    )]
    PortTaken {
        /// The address that could not be bound.
        address: SocketAddr,
        /// The holder of the port, as far as this process may see it.
        holder: Option<PortHolder>,
    },

    /// The process cannot open a socket for each CPU, because of its limit of open files.
    #[error(
        "{cpus} CPUs need a socket each and some more descriptors, but no more files can be \
         opened; {}",
        Self::FILE_LIMIT
    )]
    TooManySockets {
        /// Number of CPUs.
        cpus: usize,
        /// The system's error.
        source: Arc<io::Error>,
    },

    /// The process cannot open enough descriptors to load a program. This is checked before a
    /// program is loaded, because the errors of a half-loaded program would blame other things.
    #[error(
        "loading a program needs {needed} more descriptors, which cannot be opened; {}",
        Self::DESCRIPTOR_LIMIT
    )]
    TooFewDescriptors {
        /// The number of descriptors that must be free.
        needed: usize,
        /// The system's error.
        source: Arc<io::Error>,
    },

    /// An operation on a socket failed.
    #[error("cannot {action}; {advice}")]
    Socket {
        /// The operation, with its values.
        action: String,
        /// What to do.
        advice: &'static str,
        /// The system's error.
        source: Arc<io::Error>,
    },

    /// A partition could not be moved yet.
    #[error("partition {partition} cannot leave CPU {from}: {problem}")]
    NotMoved {
        /// The partition.
        partition: u32,
        /// The CPU that owns the partition.
        from: u32,
        /// Why the partition cannot move, and what to do.
        problem: String,
    },

    /// One process could not take over from another.
    #[error("the hand-over failed: {problem}")]
    HandOver {
        /// What failed, in which process, and what to do.
        problem: String,
        /// The system's error, if there is one.
        source: Option<Arc<io::Error>>,
    },

    /// The operation needs steering, and the attached program only filters.
    #[error(
        "the attached program filters but does not steer, because redirected packets could be \
         lost (`XdpLoader::selection` gives the reason); use native mode, or in generic mode the \
         object linux-5.9 on Linux 5.15 and later"
    )]
    FilterOnly,

    /// The partition does not exist.
    #[error("partition {partition} does not exist; there are {partitions}, numbered from 0")]
    UnknownPartition {
        /// The partition that the caller named.
        partition: u32,
        /// Number of partitions.
        partitions: u32,
    },

    /// The CPU is not among the configured CPUs.
    #[error("CPU {cpu} owns no partitions; it must be one of {cpus:?}")]
    UnknownCpu {
        /// The CPU that the caller named.
        cpu: u32,
        /// The configured CPUs.
        cpus: Vec<u32>,
    },

    /// The receiver of the CPU exists already. A CPU has one receiver at a time.
    #[error("the receiver of CPU {cpu} is in use; drop it before taking it again")]
    ReceiverInUse {
        /// The CPU.
        cpu: u32,
    },

    /// Another process is taking over. No partition can be moved meanwhile.
    #[error(
        "another process is taking over, and no partition can move meanwhile; repeat the call in \
         that process, or in this one if the hand-over fails"
    )]
    HandOverInProgress,

    /// The operation needs a feature that the program was loaded without.
    #[error("`{feature}` was not configured when the program was loaded; load it with `{feature}`")]
    FeatureOff {
        /// The field of [`XdpConfig`](crate::XdpConfig) that enables the feature.
        feature: &'static str,
    },

    /// Another process loaded the program, and this process could not replace it. This process
    /// has no controls for that program.
    #[error(
        "another process loaded the program, and it could not be replaced, so it cannot be \
         controlled from here; stop and start again to load a program with this configuration"
    )]
    ForeignProgram,

    /// A list of sources is full. Nothing has changed.
    #[error(
        "the {list} list holds {max_prefixes} prefixes and is full, so {prefix} was not added; \
         remove a prefix, or load the program with a larger `max_prefixes`"
    )]
    ListFull {
        /// The list: `deny` or `allow`.
        list: &'static str,
        /// The prefix that was not added.
        prefix: IpNet,
        /// Number of prefixes that the list can hold.
        max_prefixes: u32,
    },

    /// The list does not contain exactly this prefix. The list may contain a longer or a shorter
    /// prefix.
    #[error("{prefix} is not on the {list} list; remove exactly the prefix that was added")]
    NotListed {
        /// The list: `deny` or `allow`.
        list: &'static str,
        /// The prefix that was not removed.
        prefix: IpNet,
    },
}

impl XdpError {
    const WITHOUT_BPF: &str = "the kernel was built without CONFIG_BPF_SYSCALL, or a seccomp \
                               filter hides the call; use another kernel, or plain sockets";
    const REPORT_KERNEL: &str = "try again, and if the error persists report it with `uname -r` \
                                 and the end of `dmesg`";
    const REPORT_SOCKET: &str = "try again, and if the error persists report it with `uname -r`";
    const DESCRIPTOR_LIMIT: &str =
        "raise the limit (`ulimit -n`, or LimitNOFILE= in a systemd unit)";
    const FILE_LIMIT: &str = "raise the limit (`ulimit -n`, or LimitNOFILE= in a systemd unit), \
                              or use fewer CPUs";

    /// The kernel refused an operation that normally succeeds. `action` completes "cannot".
    pub(crate) fn kernel(action: impl Into<String>, source: io::Error) -> Self {
        XdpError::Kernel { action: action.into(), source: Arc::new(source) }
    }

    /// A socket that worked before failed. `action` completes "cannot".
    pub(crate) fn socket(action: impl Into<String>, source: io::Error) -> Self {
        let (action, advice) = (action.into(), Self::REPORT_SOCKET);
        XdpError::Socket { action, advice, source: Arc::new(source) }
    }

    pub(crate) fn hand_over(problem: impl Into<String>) -> Self {
        XdpError::HandOver { problem: problem.into(), source: None }
    }

    /// A system call of the hand-over failed. `what` says which call.
    pub(crate) fn hand_over_io(what: impl Into<String>, source: io::Error) -> Self {
        XdpError::HandOver { problem: what.into(), source: Some(Arc::new(source)) }
    }

    /// Shows the message with its causes, separated by ": ", and the advice last. Nothing is
    /// shown twice.
    ///
    /// Use this method where an error becomes text, such as in a log. Libraries that follow
    /// [`source`](std::error::Error::source) themselves do not need this method.
    ///
    /// ```
    /// use laminar_xdp::{XdpError, XdpConfig};
    ///
    /// let error = XdpError::from(XdpConfig::builder().partitions(0).build().unwrap_err());
    /// assert!(error.with_causes().to_string().starts_with("configuration: partitions: "));
    /// ```
    pub fn with_causes(&self) -> impl fmt::Display + '_ {
        WithCauses { error: self, advice: self.advice() }
    }

    /// Returns the operating system's error that caused this error, if there is one.
    ///
    /// [`source`](std::error::Error::source) returns the operating system's error as an
    /// `Arc<io::Error>`, because an [`io::Error`] cannot be cloned.
    ///
    /// ```
    /// use laminar_xdp::XdpError;
    ///
    /// assert!(XdpError::Disabled.io_error().is_none());
    /// ```
    pub fn io_error(&self) -> Option<&io::Error> {
        causes(self).find_map(|cause| match cause.downcast_ref::<Arc<io::Error>>() {
            Some(shared) => Some(&**shared),
            None => cause.downcast_ref(),
        })
    }

    /// The advice at the end of the message, for errors that have a cause.
    fn advice(&self) -> Option<&str> {
        match self {
            XdpError::Artifact(error) => error.advice(),
            XdpError::KernelWithoutBpf { .. } => Some(Self::WITHOUT_BPF),
            XdpError::Attach { advice, .. } => Some(advice),
            XdpError::Kernel { .. } => Some(Self::REPORT_KERNEL),
            XdpError::TooManySockets { .. } => Some(Self::FILE_LIMIT),
            XdpError::TooFewDescriptors { .. } => Some(Self::DESCRIPTOR_LIMIT),
            XdpError::Socket { advice, .. } => Some(advice),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
