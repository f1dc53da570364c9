//! Locking, the same way everywhere.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks. For data that a panic cannot leave half-updated, so poisoning is ignored.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
