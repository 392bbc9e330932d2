//! `cloister image` from outside: archives of real tools, a real registry, wrong images, kills at any
//! point, and several commands at once.
#![expect(clippy::unwrap_used, clippy::panic, reason = "what a test needs and has not, fails it")]
#![expect(clippy::too_many_lines, reason = "tables of cases")]

mod bed;

mod kinds;

mod wrong;

mod crash;

mod registry;

mod library;
