//! What the tests, the demo and the measurements stand on: two network
//! namespaces joined by a veth pair, senders, and witnesses on the receiving
//! side. Everything hangs on descriptors of this process, so the kernel removes
//! it when the process ends, however it ends.

pub mod bpf;
pub mod frame;
pub mod kernel;
mod namespace;
pub mod seccomp;
mod shared;
pub mod verifier;
mod wire;
mod witness;

pub use namespace::Namespace;
pub use shared::SharedNumbers;
pub use wire::{Wire, ip};
pub use witness::CpuWitness;

/// The index of an interface in this thread's namespace.
fn interface_index(name: &str) -> anyhow::Result<i32> {
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
    namespace::on_a_thread(|| {
        // SAFETY: a zeroed set is an empty one.
        let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
        // SAFETY: writes within the set, or not at all.
        unsafe { libc::CPU_SET(cpu as usize, &mut set) };
        // SAFETY: affects only this thread; the set has the stated size.
        match unsafe { libc::sched_setaffinity(0, size_of_val(&set), &set) } {
            0 => Ok(work()),
            _ => Err(std::io::Error::last_os_error()),
        }
    })
}

/// Puts the calling thread into a scheduling class that goes before every other thread of
/// its CPU. Not for long.
pub fn become_real_time() -> std::io::Result<()> {
    let parameters = libc::sched_param { sched_priority: 1 };
    // SAFETY: concerns this thread only; the parameters outlive the call.
    match unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &parameters) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

/// Has the calling thread, and no other, see /sys as its network namespace has it.
pub fn see_own_sys() -> std::io::Result<()> {
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
pub fn missing_rights() -> Option<&'static str> {
    // SAFETY: has no precondition and cannot fail.
    match unsafe { libc::geteuid() } {
        0 => None,
        _ => Some("needs root"),
    }
}
