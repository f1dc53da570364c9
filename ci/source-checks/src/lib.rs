//! Rules for the source code of this repository. The tests of this crate apply the rules, and name
//! the file and the line of each violation.
//!
//! | module | content |
//! |---|---|
//! | `workspace` | the crates of the workspace, from cargo |
//! | `tokens` | the modules, `use` declarations and paths of one source file |
//! | `modules` | the modules of one crate, and the module that defines a path's item |
//! | `cycles` | modules of one folder that need each other |
//! | `layers` | modules that need a module of a higher layer |
//! | `lint` | attributes that change the level of a lint |
//! | `api` | the public API of the loader |

pub mod api;
pub mod cycles;
pub mod layers;
pub mod lint;
pub mod modules;
mod tokens;
pub mod workspace;
