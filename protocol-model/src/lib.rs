//! Models of the two protocols that keep the datagrams' order: the hand-over between processes,
//! and moves of partitions between CPUs.
//!
//! A model describes the steps of all processes, of the kernel and of the environment: crashes,
//! stopped processes, waits that end. [`explore::explore`] visits every state that these steps can
//! lead to and checks the model's properties in each. `docs/protocol-models.md` names the function
//! of the loader for each step.

pub mod explore;
pub mod handover;
pub mod moves;
