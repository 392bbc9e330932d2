//! What system calls each thread may make once the machine runs: an allow-list per kind of thread.
//!
//! There is no call in it that takes a path, makes a socket, or maps executable memory. Anything
//! else kills the process, and the host reports it with its number.

pub mod policy;

mod program;

mod weak;

use std::io;
use std::sync::OnceLock;

use policy::Thread;
use seccompiler::BpfProgram;

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
    seccompiler::apply_filter(filter(thread)?).map_err(io::Error::other)
}

/// Compiles all filters, for a process that waits for its machine: later that would be in the way of the guest's start.
pub fn prepare() {
    for thread in Thread::ALL {
        // Said when it is needed.
        filter(thread).ok();
    }
}

/// The filter of a kind of thread; compiled once.
fn filter(thread: Thread) -> io::Result<&'static BpfProgram> {
    static FILTERS: [OnceLock<BpfProgram>; Thread::ALL.len()] =
        [const { OnceLock::new() }; Thread::ALL.len()];
    let number = Thread::ALL.iter().position(|kind| *kind == thread).unwrap_or_default();
    let place = FILTERS.get(number).ok_or(io::ErrorKind::NotFound)?;
    if let Some(program) = place.get() {
        return Ok(program);
    }
    let program = program::compile(policy::TABLE, thread).map_err(io::Error::other)?;
    Ok(place.get_or_init(|| program))
}

#[cfg(test)]
#[path = "seccomp_test.rs"]
mod tests;
