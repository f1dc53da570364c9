//! The environment of the tests, the demo and the benchmarks: two network namespaces that a
//! veth pair connects, packets, and receivers that report the CPU of each datagram.
//!
//! The testbed has its own view of the kernel and of the wire format. It does not use the
//! crates under test, because a mistake that the test and the code share would stay unseen.
//! It therefore repeats some of what `loader` also does.
//!
//! Every kernel object here belongs to a file descriptor of this process. The kernel removes
//! the objects when the process ends, even if it is killed.

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
