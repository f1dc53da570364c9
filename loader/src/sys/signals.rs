//! Keeping signals away from system calls that a pending signal ends early.

use std::mem;
use std::ptr;

/// Calls `work` while the calling thread receives no signals. The kernel ends the verification of
/// a program with EAGAIN when a signal is pending, and a timer that signals often (a profiler, a
/// language runtime) would end every attempt. A signal that arrives meanwhile is delivered to
/// another thread, or to this thread after `work`.
pub fn blocked<T>(work: impl FnOnce() -> T) -> T {
    let _restore = Mask::block_all();
    work()
}

/// The thread's former signal mask, which is restored on drop, also if `work` panics.
struct Mask(libc::sigset_t);

impl Mask {
    fn block_all() -> Mask {
        // SAFETY: `sigset_t` is plain data for which zeros are valid.
        let (mut all, mut former) = unsafe { (mem::zeroed(), mem::zeroed()) };
        // SAFETY: both pointers are to a `sigset_t` that outlives the calls. Neither call can fail
        // with these arguments.
        unsafe {
            libc::sigfillset(&mut all);
            libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut former);
        }
        Mask(former)
    }
}

impl Drop for Mask {
    fn drop(&mut self) {
        // SAFETY: the first pointer is to an initialised `sigset_t` that outlives the call. The
        // second is null, which means that the present mask is not wanted.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &self.0, ptr::null_mut()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_blocked() -> bool {
        // SAFETY: as above; a null new mask changes nothing.
        unsafe {
            let mut mask = mem::zeroed();
            libc::pthread_sigmask(libc::SIG_SETMASK, ptr::null(), &mut mask);
            libc::sigismember(&mask, libc::SIGPROF) == 1
        }
    }

    #[test]
    fn signals_are_blocked_during_the_work_only() {
        assert!(!is_blocked());
        assert!(blocked(is_blocked));
        assert!(!is_blocked());
        std::panic::catch_unwind(|| blocked(|| std::panic::resume_unwind(Box::new(())))).ok();
        assert!(!is_blocked());
    }
}
