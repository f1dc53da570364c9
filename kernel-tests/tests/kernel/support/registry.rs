//! The type of a test, and the macro with which each module lists its tests for the runner.

use anyhow::Result;

/// One test.
#[derive(Clone, Copy)]
pub struct Test {
    /// The path of the function.
    pub name: &'static str,
    pub needs: Needs,
    pub run: fn() -> Result<()>,
}

/// The privileges that a test needs, and whether the test must run alone on the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// The test needs network namespaces, which every user can create in a user namespace. The test
    /// loads BPF programs only if root runs it.
    Namespaces,
    /// The test needs root, because it loads BPF programs.
    Root,
    /// The test needs root, and no other test may run at the same time, because the test takes a
    /// CPU offline or keeps a CPU busy.
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
