//! Older kernels, acted by this one: a seccomp filter answers bpf() commands the
//! way a kernel without them would. It holds for the calling thread, for good.

use std::collections::BTreeMap;

use anyhow::Result;
use seccompiler::{
    SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    apply_filter,
};

/// Has every bpf() call fail with `errno`.
pub fn deny_bpf(errno: i32) -> Result<()> {
    filter(vec![], errno)
}

/// Has one bpf() command fail with `errno`.
pub fn deny_bpf_command(command: u32, errno: i32) -> Result<()> {
    let command =
        SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, u64::from(command))?;
    filter(vec![SeccompRule::new(vec![command])?], errno)
}

fn filter(rules: Vec<SeccompRule>, errno: i32) -> Result<()> {
    let filter = SeccompFilter::new(
        BTreeMap::from([(libc::SYS_bpf, rules)]),
        SeccompAction::Allow,
        SeccompAction::Errno(errno as u32),
        std::env::consts::ARCH.try_into()?,
    )?;
    let program: seccompiler::BpfProgram = filter.try_into()?;
    Ok(apply_filter(&program)?)
}
