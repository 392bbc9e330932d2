//! What `cloister` itself exits with. The whole table is `docs/exit-codes.md`.

use cloister_protocol::message::{ExecFailure, ExitStatus};

/// Everything went well.
pub const OK: u8 = 0;
/// `cloister doctor`: something that is needed is missing.
pub const DOCTOR_FAILED: u8 = 1;
/// `cloister up`: an agent did not succeed.
pub const AGENT_FAILED: u8 = 1;
/// `cloister inspect --security`: something that the jail promises is not so.
pub const NOT_KEPT: u8 = 1;
/// `cloister audit verify`: a log is not as it was written.
pub const LOG_CHANGED: u8 = 1;
/// `cloister audit export`: records were missing, and what was handed over says so.
pub const RECORDS_MISSING: u8 = 1;
/// `cloister policy check`: it may not be reached.
pub const POLICY_DENIES: u8 = 1;
/// `cloister prove`: an attack was not held, or could not be tried.
pub const NOT_PROVEN: u8 = 1;
/// A command that reads a team file: the file has mistakes.
pub const TEAM_FILE_WRONG: u8 = 1;
/// The command's time limit ended it.
pub const TIMED_OUT: u8 = 124;
/// Cloister or the machine failed, or Cloister was called wrongly.
pub const FAILED: u8 = 125;
/// The program is there and can't be executed.
pub const NOT_EXECUTABLE: u8 = 126;
/// There is no such program.
pub const NOT_FOUND: u8 = 127;
/// A signal ended the command, or the start before it: this and the signal's number.
pub const SIGNALLED: u8 = 128;

/// The exit code that tells how a command ended.
#[must_use]
pub const fn of_status(status: ExitStatus) -> u8 {
    match status {
        ExitStatus::Code(code) => code,
        ExitStatus::Signal(signal) => of_signal(signal),
        ExitStatus::TimedOut => TIMED_OUT,
    }
}

/// The exit code for an end by `signal`.
#[must_use]
pub const fn of_signal(signal: u8) -> u8 {
    SIGNALLED.saturating_add(signal)
}

/// The exit code that tells why a command could not be started.
#[must_use]
pub const fn of_failure(reason: ExecFailure) -> u8 {
    match reason {
        ExecFailure::NotFound => NOT_FOUND,
        ExecFailure::NotExecutable => NOT_EXECUTABLE,
        ExecFailure::Directory | ExecFailure::BadRequest | ExecFailure::Resources => FAILED,
    }
}

#[cfg(test)]
#[path = "exit_codes_test.rs"]
mod tests;
