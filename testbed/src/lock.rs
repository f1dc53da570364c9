//! The lock on the machine.

use std::fs::File;
use std::io::{self, ErrorKind};

/// Opens the file that the users of the testbed lock. Tests and benchmarks share the lock. A
/// test that changes the whole machine, for example takes a CPU offline, has the lock alone.
pub fn lock_file() -> io::Result<File> {
    let path = std::env::temp_dir().join("laminar-xdp-tests.lock");
    // Another user may have created the file. Reading is enough to lock it, and in a sticky
    // folder the kernel refuses O_CREAT on another user's file (fs.protected_regular).
    match File::open(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            File::options().create(true).append(true).open(path)
        }
        result => result,
    }
}
