//! The identity of a process that holds a port, and of a loaded program.

use std::fmt;

/// The holder of a UDP port, as far as this process may see it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PortHolder {
    /// The user's id.
    pub user: u32,
    /// The process's id and name. `None` if this process may not see it, or if the holder is
    /// in another PID namespace.
    pub process: Option<(u32, String)>,
}

impl fmt::Display for PortHolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.process {
            Some((id, name)) => write!(f, "process {id} ({name}) of user {}", self.user),
            None => write!(f, "user {} (run as root to see the process)", self.user),
        }
    }
}

/// A BPF program that is loaded in the kernel, as far as this process may see it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProgramIdentity {
    /// The kernel's id of the program, as `bpftool prog` shows it.
    pub id: u32,
    /// The program's name. `None` without CAP_SYS_ADMIN.
    pub name: Option<String>,
    /// The kernel's hash of the program's instructions, in hexadecimal digits. `None` without
    /// CAP_SYS_ADMIN.
    pub tag: Option<String>,
}

impl fmt::Display for ProgramIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "id {}", self.id)?;
        match &self.name {
            Some(name) => write!(f, " name {name:?}")?,
            None => write!(f, " (reading its name takes CAP_SYS_ADMIN)")?,
        }
        self.tag.as_ref().map_or(Ok(()), |tag| write!(f, " tag {tag}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_process_or_name_is_replaced_by_advice() {
        let mut holder = PortHolder { user: 7, process: Some((1, "init".into())) };
        assert_eq!(holder.to_string(), "process 1 (init) of user 7");
        holder.process = None;
        assert_eq!(holder.to_string(), "user 7 (run as root to see the process)");

        let mut program = ProgramIdentity { id: 3, name: Some("a".into()), tag: Some("0f".into()) };
        assert_eq!(program.to_string(), "id 3 name \"a\" tag 0f");
        (program.name, program.tag) = (None, None);
        assert_eq!(program.to_string(), "id 3 (reading its name takes CAP_SYS_ADMIN)");
    }
}
