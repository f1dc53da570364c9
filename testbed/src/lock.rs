//! The lock file that tests and benchmarks share.

use std::fs::File;
use std::io::{self, ErrorKind};

/// Opens the file that every test and benchmark locks. Most take a shared lock. A test that
/// changes the whole machine, for example by taking a CPU offline, takes an exclusive lock.
pub fn lock_file() -> io::Result<File> {
    let path = std::env::temp_dir().join("laminar-xdp-tests.lock");
    // Open without O_CREAT first. If another user created the file, the kernel refuses O_CREAT on
    // that file in a sticky folder (fs.protected_regular). Read access is enough for a lock.
    match File::open(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            File::options().create(true).append(true).open(path)
        }
        result => result,
    }
}
