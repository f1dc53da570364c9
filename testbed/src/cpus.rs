//! The CPUs that are online, the CPU that a thread runs on, and the CPUs that a thread may run on.

use std::io;

use crate::sys::check;
use crate::threads::on_new_thread;

/// The CPU that the calling thread runs on.
pub fn current_cpu() -> u32 {
    // SAFETY: the call has no precondition.
    unsafe { libc::sched_getcpu() }.try_into().expect("the kernel has getcpu")
}

/// The CPUs that the calling thread may run on.
pub fn allowed_cpus() -> Vec<u32> {
    let mut set = empty_set();
    // SAFETY: the call writes to `set` only, whose size is passed.
    let answer = unsafe { libc::sched_getaffinity(0, size_of_val(&set), &mut set) };
    check(answer).expect("sched_getaffinity");
    // SAFETY: every CPU number is below `CPU_SETSIZE`.
    let allowed = |cpu: &u32| unsafe { libc::CPU_ISSET(*cpu as usize, &set) };
    (0..libc::CPU_SETSIZE as u32).filter(allowed).collect()
}

/// The ids of the CPUs that are online.
pub fn online_cpus() -> Vec<u32> {
    let list = std::fs::read_to_string("/sys/devices/system/cpu/online").expect("sysfs");
    parse_cpu_list(&list).expect("a CPU list of the kernel")
}

/// Parses the kernel's format for sets of CPUs, such as `0-3,8`.
fn parse_cpu_list(list: &str) -> Option<Vec<u32>> {
    let mut cpus = Vec::new();
    for range in list.trim().split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        cpus.extend(first.parse::<u32>().ok()?..=last.parse().ok()?);
    }
    Some(cpus)
}

/// Runs `work` on one CPU, in a new thread, and waits for it.
pub fn on_cpu<T: Send>(cpu: u32, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    on_new_thread(|| pin_thread(0, cpu).map(|()| work()))
}

/// Binds a thread to one CPU. The thread id 0 is the calling thread.
pub fn pin_thread(thread: u32, cpu: u32) -> io::Result<()> {
    let mut set = empty_set();
    // SAFETY: `CPU_SET` checks the bounds of the set and panics if the number is beyond them.
    unsafe { libc::CPU_SET(cpu as usize, &mut set) };
    // SAFETY: the call reads `set` only, whose size is passed.
    check(unsafe { libc::sched_setaffinity(thread as i32, size_of_val(&set), &set) }).map(|_| ())
}

fn empty_set() -> libc::cpu_set_t {
    // SAFETY: the set is an array of integers, so all zeros are valid.
    unsafe { std::mem::zeroed() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_lists_have_numbers_and_ranges() {
        assert_eq!(parse_cpu_list("0-2,5,7-8\n"), Some(vec![0, 1, 2, 5, 7, 8]));
        assert_eq!(parse_cpu_list("0\n"), Some(vec![0]));
        assert_eq!(parse_cpu_list("\n"), None);
    }

    #[test]
    fn a_pinned_thread_may_run_on_its_cpu_only() {
        let cpu = allowed_cpus()[0];
        let seen = on_cpu(cpu, || (allowed_cpus(), current_cpu())).unwrap();
        assert_eq!(seen, (vec![cpu], cpu));
    }
}
