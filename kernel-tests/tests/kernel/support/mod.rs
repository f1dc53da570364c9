//! Functions and types that the test modules share. A test module imports from here and never
//! from another test module.

mod arrivals;
mod child;
mod config;
mod ingest;
mod machine;
mod objects;
mod output;
mod owner;
mod privileges;
mod program;
mod registry;
mod restrictions;
mod stream;
mod ways;

use std::time::{Duration, Instant};

use anyhow::Result;

pub use arrivals::{Arrivals, PARTITIONS};
pub use child::{HOLD, LOAD_WITH_FEW_DESCRIPTORS, MOVED, OPEN_UNDER_SIGNALS, OWN, run_as_child};
pub use config::{config, load};
pub use ingest::{
    PORT, all_at_owners, drain, loopback, open, open_again, owner_of, receivers, sockets_only,
};
pub use machine::{online_cpus, two_cpus, with_cpu_offline};
pub use objects::{
    BASELINE, ObjectSet, best, best_in_generic_mode, object_of, picked, prebuilt,
    steers_in_generic_mode, targets, targets_with_features,
};
pub use output::{capture_warnings, enable_warnings, note, take_notes};
pub use owner::Owner;
pub use privileges::{Privileges, acquire_privileges};
pub use program::{DROP, PASS, REDIRECT, program_of};
pub(crate) use registry::tests;
pub use registry::{Needs, Test};
pub use restrictions::{LOADER_CAPABILITIES, fail_link_create, keep_only};
pub use stream::{Stream, datagrams, send_a_thousand};
pub use ways::{OWNER_WAYS, OwnerWay, Way, steering_modes, ways};

/// Polls `condition` for up to five seconds. Returns whether it became true.
pub fn wait_until(mut condition: impl FnMut() -> Result<bool>) -> Result<bool> {
    let begin = Instant::now();
    while !condition()? {
        if begin.elapsed() > Duration::from_secs(5) {
            return Ok(false);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(true)
}
