//! Binding a thread to a CPU, waiting for running BPF programs, and the clock that BPF
//! programs read.

use std::io;
use std::mem;
use std::time::Duration;

use super::check_errno;
use crate::ids::CpuId;

/// Binds the calling thread to one CPU. `InvalidInput` for CPU 1024 and higher, which the C
/// library's `cpu_set_t` cannot hold.
pub fn pin_thread(cpu: CpuId) -> io::Result<()> {
    // SAFETY: `cpu_set_t` is plain data for which zeros are valid: an empty set.
    let mut set: libc::cpu_set_t = unsafe { mem::zeroed() };
    let cpu = cpu.get() as usize;
    if cpu >= 8 * size_of_val(&set) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: `cpu` is a bit of `set`, as just checked.
    unsafe { libc::CPU_SET(cpu, &mut set) };
    // SAFETY: the kernel reads the stated size of `set`, which outlives the call; 0 means
    // the calling thread.
    check_errno(unsafe { libc::sched_setaffinity(0, size_of_val(&set), &set) }).map(drop)
}

/// `MEMBARRIER_CMD_GLOBAL` of the kernel's `linux/membarrier.h`.
const MEMBARRIER_CMD_GLOBAL: libc::c_int = 1;

/// Waits for an RCU grace period. When the call returns, every XDP program that was running at the
/// start of the call has ended, on every CPU. The poll of the network card in which the program ran
/// has ended as well. Needs Linux 4.3. The kernel refuses the call if CPUs run without a tick
/// (`nohz_full`).
pub fn wait_for_running_programs() -> io::Result<()> {
    // SAFETY: the call takes no pointer, only a command, flags and a CPU. This command
    // uses neither flags nor CPU.
    match unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The time of CLOCK_MONOTONIC: the time since the kernel started, without the time in which the
/// machine was suspended. BPF programs read the same clock (`bpf_ktime_get_ns`).
pub fn monotonic_now() -> Duration {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes one `timespec`: `now`, which outlives the call. The call cannot
    // fail, because this clock always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus_beyond_the_set_are_refused() {
        for cpu in [1024, u32::MAX] {
            let error = pin_thread(CpuId::new(cpu)).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        }
    }

    #[test]
    fn the_monotonic_clock_advances() {
        let before = monotonic_now();
        std::thread::sleep(Duration::from_millis(2));
        assert!(monotonic_now() >= before + Duration::from_millis(2));
    }
}
