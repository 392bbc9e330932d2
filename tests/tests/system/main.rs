//! Whole-system tests: `cloister` as a user calls it, a real kernel, a real guest.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

/// Commands: exit codes, arguments, environment, directory, time limit.
mod commands;
/// The jail with all its limits, as root and as a user.
mod jail;
/// Machines: sizes, several at once, what is in them and what is not.
mod machines;
/// Many commands at once in one machine, by the library.
mod many;
/// Programs that find faults of file systems, on a shared directory.
mod programs;
/// What must be refused, with which words and which exit code.
mod refusals;
/// Directories of the host in the guest.
mod shares;
/// Signals to a command, with and without a terminal.
mod signals;
/// Standard streams: whole, apart, streamed, half-closed, slowed down, bounded.
mod streams;
mod team_bed;
/// Teams: containers, files, limits.
mod teams;
/// Terminals: size, resize, modes.
mod terminals;
