//! The parts of the benchmark. Each part answers one question and has its own contenders.

use anyhow::Result;

use crate::report::Part;
use crate::session::Session;

mod flood;
mod junk;
mod loading;
mod program_cases;
mod programs;
mod scaling;
mod steering;
mod steering_paths;

type Measure = fn(&Session) -> Result<Part>;

/// The parts by name, in the order in which they run.
pub const PARTS: [(&str, Measure); 6] = [
    ("programs", programs::measure),
    ("junk", junk::measure),
    ("flood", flood::measure),
    ("steering", steering::measure),
    ("loading", loading::measure),
    ("scaling", scaling::measure),
];
