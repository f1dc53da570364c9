//! What the tests, the demo and the measurements stand on: two network
//! namespaces joined by a veth pair, senders, and witnesses on the receiving
//! side. Everything hangs on descriptors of this process, so the kernel removes
//! it when the process ends, however it ends.

pub mod bpf;
pub mod frame;
pub mod kernel;
mod namespace;
pub mod seccomp;
mod wire;
mod witness;

pub use namespace::Namespace;
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

/// Why the caller cannot make namespaces and load programs; `None` for root.
pub fn missing_rights() -> Option<&'static str> {
    // SAFETY: has no precondition and cannot fail.
    match unsafe { libc::geteuid() } {
        0 => None,
        _ => Some("needs root"),
    }
}
