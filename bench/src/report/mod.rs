//! The results: tables, goals, pictures, and the comparison of two runs.

mod comparison;
mod document;
mod figure;
mod machine;
pub mod plot;
pub mod record;
mod table;

pub use comparison::compare;
pub use document::{Goal, Part, Report};
pub use figure::Figure;
pub use machine::Machine;
pub use table::{Row, Table};
