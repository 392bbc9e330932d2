//! What system calls each thread may make once the machine runs: an allow-list per kind of thread.
//!
//! There is no call in it that takes a path, makes a socket, or maps executable memory. Anything
//! else kills the process, and the host reports it.

mod policy;

use std::collections::BTreeMap;
use std::io;

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};

use policy::{Line, Thread};

/// Confines the calling thread as a vCPU thread.
///
/// # Errors
/// The kernel refuses the filter; the machine must not run then.
pub fn confine_vcpu() -> io::Result<()> {
    confine(Thread::Vcpu)
}

/// Confines the calling thread as the event loop.
///
/// # Errors
/// The kernel refuses the filter; the machine must not run then.
pub fn confine_loop() -> io::Result<()> {
    confine(Thread::Loop)
}

fn confine(thread: Thread) -> io::Result<()> {
    let program = compile(thread).map_err(io::Error::other)?;
    seccompiler::apply_filter(&program).map_err(io::Error::other)
}

fn compile(thread: Thread) -> Result<BpfProgram, seccompiler::BackendError> {
    let mut rules = BTreeMap::new();
    for line in policy::TABLE {
        let Line { call, threads, conditions, .. } = line;
        if !threads.contains(&thread) {
            continue;
        }
        let lines: &mut Vec<_> = rules.entry(*call).or_default();
        if let Some(conditions) = conditions {
            lines.push(conditions()?);
        }
    }
    SeccompFilter::new(rules, SeccompAction::KillProcess, SeccompAction::Allow, TargetArch::x86_64)?
        .try_into()
}

#[cfg(test)]
#[path = "seccomp_test.rs"]
mod tests;
