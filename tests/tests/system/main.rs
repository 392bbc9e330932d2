//! Whole-system tests: `cloister` as a user calls it, a real kernel, a real guest.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

/// What `cloister bench` tells.
mod benches;
/// Programs as people use them, and the servers that they talk to.
mod clients;
/// Commands: exit codes, arguments, environment, directory, time limit.
mod commands;
/// What agents reach outside.
mod egress;
/// Hundreds of machines from one template.
mod forks;
/// The jail with all its limits, as root and as a user.
mod jail;
/// Many commands at once in one machine, by the library.
mod kept;
/// Machines: sizes, several at once, what is in them and what is not.
mod machines;
mod many;
/// Memory that goes back to the host.
mod memory;
mod ordinary_user;
mod policy;
/// Machines in processes that waited for them.
mod pool;
/// Programs that find faults of file systems, on a shared directory.
mod programs;
/// The red-team suite: that it passes, and that it notices what is missing.
mod prove;
/// What must be refused, with which words and which exit code.
mod refusals;

/// Teams that are paused in place.
mod pauses;
mod secrets;
/// Directories of the host in the guest.
mod shares;
/// Signals to a command, with and without a terminal.
mod signals;
/// Standard streams: whole, apart, streamed, half-closed, slowed down, bounded.
mod streams;
mod team_bed;
/// Teams: containers, files, limits.
mod teams;
/// Templates, and machines that go on from them.
mod templates;
/// Terminals: size, resize, modes.
mod terminals;
