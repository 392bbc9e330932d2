//! What system calls each thread may make once the machine runs: an allow-list per kind of thread.
//!
//! There is no call in it that takes a path, makes a socket, or maps executable memory. Anything
//! else kills the process, and the host reports it with its number.

pub mod policy;

mod program;

mod weak;

use std::io;

use policy::Thread;

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

/// Confines the calling thread as a vCPU thread of a machine that can be saved.
///
/// # Errors
/// The kernel refuses the filter; the machine must not run then.
pub fn confine_savable_vcpu() -> io::Result<()> {
    confine(Thread::SavableVcpu)
}

/// Confines the calling thread as the event loop of a machine that can be saved.
///
/// # Errors
/// The kernel refuses the filter; the machine must not run then.
pub fn confine_savable_loop() -> io::Result<()> {
    confine(Thread::SavableLoop)
}

/// No system call, and the last that a process makes whose filter has been hit.
pub const LAST_CALL: u32 = program::LAST_CALL;

fn confine(thread: Thread) -> io::Result<()> {
    if weak::leaves_out(thread) {
        return Ok(());
    }
    let program = program::compile(policy::TABLE, thread).map_err(io::Error::other)?;
    seccompiler::apply_filter(&program).map_err(io::Error::other)
}

#[cfg(test)]
#[path = "seccomp_test.rs"]
mod tests;
