//! A type for each kind of number, so that using one kind in place of another is a compile error.

use std::fmt;

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident($number:ty);)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub(crate) struct $name($number);

        impl $name {
            pub const fn new(number: $number) -> Self {
                Self(number)
            }

            pub const fn get(self) -> $number {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    )*};
}

ids! {
    /// The kernel's number of a CPU, as in `/sys/devices/system/cpu/cpu3`.
    CpuId(u32);
    /// A CPU's position in the configured list of CPUs. The CPU's socket, receiver and mailbox have
    /// the same position in their lists.
    CpuIndex(u16);
    /// The number of a partition, from 0.
    Partition(u32);
    /// The kernel's number of an interface in one network namespace (`ifindex`).
    InterfaceIndex(i32);
}
