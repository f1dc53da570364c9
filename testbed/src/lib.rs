//! The environment of the tests, the demo and the benchmarks. It consists of two network namespaces
//! with a veth pair between them, packets, and receivers that report the CPU of each datagram.
//!
//! The testbed does not use the crates under test. A test that used the same code as the loader
//! could not find a mistake in that code. The testbed therefore implements some functions of
//! `loader` a second time.
//!
//! Every kernel object here belongs to a file descriptor of this process. The kernel removes the
//! objects when the process ends, even if the process is killed.

mod batch;
mod borrowed_nics;
pub mod bpf;
mod cpus;
mod ethtool;
pub mod frame;
mod interface;
mod iproute;
pub mod kernel;
mod lock;
mod namespace;
mod rx_cpu;
pub mod seccomp;
mod shared;
mod socket;
pub mod stress;
mod sys;
mod testnet;
mod threads;
pub mod verifier;

pub use batch::Batch;
pub use cpus::{allowed_cpus, current_cpu, on_cpu, online_cpus, pin_thread};
pub use interface::interface_index;
pub use iproute::ip;
pub use lock::lock_file;
pub use namespace::{Namespace, mount_own_sysfs};
pub use rx_cpu::RxCpuSockets;
pub use shared::SharedCounters;
pub use socket::{select_in_group, set_receive_buffer};
pub use sys::{missing_privileges, monotonic_nanoseconds};
pub use testnet::TestNet;
pub use threads::{become_idle, become_real_time, interrupt, thread_id};
