//! Takes dead children away: those of commands, and every orphan, since PID 1 inherits them.

use cloister_protocol::message::ExitStatus;
use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions, WaitStatus};

/// Most children taken in one turn: a command that makes orphans faster than this must not keep
/// the supervisor from everything else.
pub(crate) const MAX_A_TURN: usize = 256;

/// A dead child, with how it ended. `None`: none is left for now.
pub(crate) fn next() -> Option<(Pid, ExitStatus)> {
    loop {
        match rustix::process::wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) => return Some((pid, exit_status(status))),
            Err(Errno::INTR) => {}
            // CHILD: there is not even a living one.
            Ok(None) | Err(_) => return None,
        }
    }
}

fn exit_status(status: WaitStatus) -> ExitStatus {
    let signal = status.terminating_signal().and_then(|signal| u8::try_from(signal).ok());
    let code = status.exit_status().and_then(|code| u8::try_from(code).ok());
    match (signal, code) {
        (Some(signal), _) => ExitStatus::Signal(signal),
        (None, Some(code)) => ExitStatus::Code(code),
        // The kernel has no third kind of end, and codes have eight bits.
        (None, None) => ExitStatus::Code(u8::MAX),
    }
}
