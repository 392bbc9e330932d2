//! Every bound of the protocol, with what it stops.

/// Largest frame body, in bytes: bounds what one side can make the other hold at once. An [`Exec`]
/// with all its arguments and environment must fit.
///
/// [`Exec`]: crate::message::Exec
pub const MAX_FRAME: usize = 256 << 10;
/// Most commands that run at once: bounds the supervisor's processes and streams.
pub const MAX_COMMANDS: usize = 256;
/// Most arguments of a command, program included.
pub const MAX_ARGUMENTS: usize = 4096;
/// Most environment variables of a command.
pub const MAX_VARIABLES: usize = 1024;
/// Longest detail text in an event, in bytes: it ends on somebody's terminal.
pub const MAX_DETAIL: usize = 1024;
/// Longest time limit of a command, in milliseconds (30 days): keeps timer arithmetic far from overflow.
pub const MAX_TIMEOUT_MS: u64 = 30 * 24 * 3600 * 1000;
