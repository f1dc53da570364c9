//! Conditions that processes must survive: signals, stops, and few descriptors.

use std::io;
use std::ptr;
use std::time::Duration;

use crate::sys::check;
use crate::threads::handle_with_nothing;

/// Sends this process SIGALRM once in every interval, from now on. The handler does nothing. Call
/// this in a child process with one thread, so that this thread receives each signal.
pub fn signal_every(interval: Duration) -> io::Result<()> {
    handle_with_nothing(libc::SIGALRM)?;
    let interval = libc::timeval { tv_sec: 0, tv_usec: interval.subsec_micros().into() };
    let timer = libc::itimerval { it_interval: interval, it_value: interval };
    // SAFETY: the timer is read during the call only. The null pointer means that the former timer
    // is not wanted.
    check(unsafe { libc::setitimer(libc::ITIMER_REAL, &timer, ptr::null_mut()) }).map(drop)
}

/// Limits the number of this process's descriptors.
pub fn limit_descriptors(count: u64) -> io::Result<()> {
    let limit = libc::rlimit { rlim_cur: count, rlim_max: count.max(1024) };
    // SAFETY: the limit is read during the call only.
    check(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) }).map(drop)
}

/// Sends a signal to a child process, for example SIGSTOP.
pub fn send_signal(process: u32, signal: libc::c_int) -> io::Result<()> {
    // SAFETY: the call takes no pointer.
    check(unsafe { libc::kill(process as libc::pid_t, signal) }).map(drop)
}
