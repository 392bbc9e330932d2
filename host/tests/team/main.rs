//! Team files: wrong ones by a table, right ones, any bytes, and the commands that read them.
#![expect(clippy::unwrap_used, clippy::panic, reason = "what a test needs and has not, fails it")]
#![expect(clippy::too_many_lines, reason = "tables of cases")]

mod bed;

mod wrong;

mod right;

mod any;

mod commands;
mod egress;
mod secrets;
