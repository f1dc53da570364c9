//! The tests of each module, as the runner lists them.

use anyhow::Result;

/// One test.
#[derive(Clone, Copy)]
pub struct Test {
    /// The path of the function.
    pub name: &'static str,
    pub needs: Needs,
    pub run: fn() -> Result<()>,
}

/// What a test needs of the caller and of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// Network namespaces, which every user gets inside a user namespace. Such a test loads
    /// no BPF program unless the caller is root.
    Namespaces,
    /// Root, because the test loads BPF programs.
    Root,
    /// Root, and no other test at the same time, because the test takes a CPU offline or
    /// blocks one.
    WholeMachine,
}

/// Declares the constant `TESTS`: the tests of a module, grouped by what they need.
macro_rules! tests {
    ($($needs:ident: $($test:ident),* $(,)?);* $(;)?) => {
        pub const TESTS: &[crate::support::Test] = &[$($(crate::support::Test {
            name: concat!(module_path!(), "::", stringify!($test)),
            needs: crate::support::Needs::$needs,
            run: $test,
        },)*)*];
    };
}
pub(crate) use tests;
