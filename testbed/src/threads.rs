//! Threads: starting, interrupting and scheduling them.

use std::io;
use std::thread;

use crate::sys::check;

/// Runs `work` in a new thread and waits for it. What `work` changes of its thread, such as
/// the namespace or the allowed CPUs, ends with the thread.
pub(crate) fn on_new_thread<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| match scope.spawn(work).join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

/// The id of the calling thread.
pub fn thread_id() -> u32 {
    // SAFETY: the call has no precondition and cannot fail.
    unsafe { libc::gettid() }.try_into().expect("ids are positive")
}

/// Interrupts the system call in which a thread of this process waits. Has no effect on a
/// thread that is not in an interruptible system call.
pub fn interrupt(thread: u32) -> io::Result<()> {
    extern "C" fn ignore(_: libc::c_int) {}
    let handler = ignore as extern "C" fn(libc::c_int);
    // SAFETY: a zeroed action is valid. It has no SA_RESTART, so that the kernel does not
    // restart the interrupted call.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler as libc::sighandler_t;
    let (process, signal) = (std::process::id(), libc::SIGUSR1);
    // SAFETY: the handler does nothing, so it may run at any time.
    check(unsafe { libc::sigaction(signal, &action, std::ptr::null_mut()) })?;
    // SAFETY: the kernel delivers the signal only to a thread of this process.
    match unsafe { libc::syscall(libc::SYS_tgkill, process, thread, signal) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Gives the calling thread a real-time class: it runs before every ordinary thread of its
/// CPU. Use it for short work only.
pub fn become_real_time() -> io::Result<()> {
    set_scheduler(libc::SCHED_FIFO, 1)
}

/// Gives the calling thread the idle class: it runs when no other thread of its CPU wants to.
pub fn become_idle() -> io::Result<()> {
    set_scheduler(libc::SCHED_IDLE, 0)
}

fn set_scheduler(policy: libc::c_int, sched_priority: libc::c_int) -> io::Result<()> {
    let parameters = libc::sched_param { sched_priority };
    // SAFETY: 0 is the calling thread, and the parameters outlive the call.
    check(unsafe { libc::sched_setscheduler(0, policy, &parameters) }).map(|_| ())
}
