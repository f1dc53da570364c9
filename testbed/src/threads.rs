//! Starts, interrupts and schedules threads.

use std::io;
use std::thread;

use crate::sys::check;

/// Runs `work` in a new thread and waits for it. If `work` changes the namespace or the
/// allowed CPUs of its thread, the calling thread is not affected.
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
    let (process, signal) = (std::process::id(), libc::SIGUSR1);
    handle_with_nothing(signal)?;
    // SAFETY: the kernel delivers the signal only to a thread of this process.
    match unsafe { libc::syscall(libc::SYS_tgkill, process, thread, signal) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Installs a handler that does nothing. The signal then interrupts system calls, and the kernel
/// does not restart them.
pub(crate) fn handle_with_nothing(signal: libc::c_int) -> io::Result<()> {
    extern "C" fn ignore(_: libc::c_int) {}
    let handler = ignore as extern "C" fn(libc::c_int);
    // SAFETY: a zeroed action is valid. It lacks SA_RESTART.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler as libc::sighandler_t;
    // SAFETY: the handler does nothing, so it can safely interrupt any code.
    check(unsafe { libc::sigaction(signal, &action, std::ptr::null_mut()) }).map(|_| ())
}

/// Gives the calling thread a real-time class, so that it runs before every ordinary thread of
/// its CPU. Use it for short work only.
pub fn become_real_time() -> io::Result<()> {
    set_scheduler(libc::SCHED_FIFO, 1)
}

/// Gives the calling thread the idle class, so that it runs only when its CPU is otherwise
/// idle.
pub fn become_idle() -> io::Result<()> {
    set_scheduler(libc::SCHED_IDLE, 0)
}

fn set_scheduler(policy: libc::c_int, sched_priority: libc::c_int) -> io::Result<()> {
    let parameters = libc::sched_param { sched_priority };
    // SAFETY: the thread id 0 is the calling thread, and the call only reads `parameters`.
    check(unsafe { libc::sched_setscheduler(0, policy, &parameters) }).map(|_| ())
}
