//! What the tests, the demo and the measurements stand on: two network
//! namespaces joined by a veth pair, senders, and witnesses on the receiving
//! side. Everything hangs on descriptors of this process, so the kernel removes
//! it when the process ends, however it ends.

mod batch;
mod borrowed_nics;
pub mod bpf;
mod ethtool;
pub mod frame;
mod iproute;
pub mod kernel;
mod namespace;
mod rx_cpu;
pub mod seccomp;
mod shared;
mod testnet;
pub mod verifier;

pub use batch::Batch;
pub use iproute::ip;
pub use namespace::Namespace;
pub use rx_cpu::{RxCpuSockets, select_in_group, set_receive_buffer};
pub use shared::SharedCounters;
pub use testnet::TestNet;

/// The index of an interface in this thread's namespace.
pub fn interface_index(name: &str) -> anyhow::Result<i32> {
    let c_name = std::ffi::CString::new(name)?;
    // SAFETY: the name is a C string.
    let index = unsafe { libc::if_nametoindex(c_name.as_ptr()) };
    anyhow::ensure!(index != 0, "no interface {name}");
    Ok(index.try_into()?)
}

/// The CPU that the caller runs on.
pub fn current_cpu() -> u32 {
    // SAFETY: has no precondition.
    unsafe { libc::sched_getcpu() }.try_into().expect("the kernel has getcpu")
}

/// The time by the clock that BPF programs read too (CLOCK_MONOTONIC), in nanoseconds.
pub fn monotonic_nanoseconds() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes the time and nothing else; that clock is always there.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// The CPUs that the calling thread may run on.
pub fn allowed_cpus() -> Vec<u32> {
    // SAFETY: a zeroed set is an empty one.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: concerns this thread only; the set has the stated size.
    let answer = unsafe { libc::sched_getaffinity(0, size_of_val(&set), &mut set) };
    assert_eq!(answer, 0, "sched_getaffinity: {}", std::io::Error::last_os_error());
    // SAFETY: reads within the set.
    (0..libc::CPU_SETSIZE as u32)
        .filter(|c| unsafe { libc::CPU_ISSET(*c as usize, &set) })
        .collect()
}

/// The ids of the CPUs that are online.
pub fn online_cpus() -> Vec<u32> {
    let list = std::fs::read_to_string("/sys/devices/system/cpu/online").expect("sysfs");
    let ranges = list.trim().split(',').map(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let number = |text: &str| text.parse::<u32>().expect("a CPU list of the kernel");
        number(first)..=number(last)
    });
    ranges.flatten().collect()
}

/// Runs `work` on one CPU, on a thread of its own.
pub fn on_cpu<T: Send>(cpu: u32, work: impl FnOnce() -> T + Send) -> std::io::Result<T> {
    namespace::on_a_thread(|| pin_thread(0, cpu).map(|()| work()))
}

/// Binds a thread, by its id, to one CPU; 0 is the calling one.
pub fn pin_thread(thread: u32, cpu: u32) -> std::io::Result<()> {
    // SAFETY: a zeroed set is an empty one.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: writes within the set, or not at all.
    unsafe { libc::CPU_SET(cpu as usize, &mut set) };
    // SAFETY: affects where a thread runs and nothing else; the set has the stated size.
    match unsafe { libc::sched_setaffinity(thread as i32, size_of_val(&set), &set) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

/// Ends the system call that a thread of this process waits in, if it is in one that can be
/// ended. For everything else there is no effect.
pub fn interrupt(thread: u32) -> std::io::Result<()> {
    extern "C" fn nothing(_: libc::c_int) {}
    let handler = nothing as extern "C" fn(libc::c_int);
    // SAFETY: a zeroed action is valid: no flags, so that calls are not begun anew.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler as libc::sighandler_t;
    let (process, signal) = (std::process::id(), libc::SIGUSR1);
    // SAFETY: the handler does nothing, so it may run at any time; the signal goes to a
    // thread of this process or to none.
    let answer = unsafe {
        match libc::sigaction(signal, &action, std::ptr::null_mut()) {
            0 => libc::syscall(libc::SYS_tgkill, process, thread, signal),
            error => error.into(),
        }
    };
    if answer == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

/// The id of the calling thread.
pub fn thread_id() -> u32 {
    // SAFETY: has no precondition and cannot fail.
    unsafe { libc::gettid() }.try_into().expect("ids are positive")
}

/// Puts the calling thread into a scheduling class that goes before every other thread of
/// its CPU. Not for long.
pub fn become_real_time() -> std::io::Result<()> {
    schedule(libc::SCHED_FIFO, 1)
}

/// Puts the calling thread into the scheduling class that runs when nothing else wants to.
pub fn become_idle() -> std::io::Result<()> {
    schedule(libc::SCHED_IDLE, 0)
}

fn schedule(policy: i32, sched_priority: i32) -> std::io::Result<()> {
    let parameters = libc::sched_param { sched_priority };
    // SAFETY: concerns this thread only; the parameters outlive the call.
    match unsafe { libc::sched_setscheduler(0, policy, &parameters) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

/// Has the calling thread, and no other, see /sys as its network namespace has it.
pub fn mount_own_sysfs() -> std::io::Result<()> {
    let nothing = std::ptr::null();
    // SAFETY: the names are C strings; concerns this thread only.
    let answer = unsafe {
        let private = (libc::MS_REC | libc::MS_PRIVATE) as libc::c_ulong;
        match libc::unshare(libc::CLONE_NEWNS) {
            0 => match libc::mount(nothing, c"/".as_ptr(), nothing, private, nothing.cast()) {
                0 => {
                    let (what, on) = (c"sysfs".as_ptr(), c"/sys".as_ptr());
                    libc::mount(what, on, what, 0, nothing.cast())
                }
                error => error,
            },
            error => error,
        }
    };
    if answer == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

/// Why the caller cannot make namespaces and load programs; `None` for root.
pub fn missing_privileges() -> Option<&'static str> {
    // SAFETY: has no precondition and cannot fail.
    match unsafe { libc::geteuid() } {
        0 => None,
        _ => Some("needs root"),
    }
}
