//! The host's side of Cloister: starting machines, running commands in them, and the command line.
//!
//! A machine is [`launch::LaunchSpec`] → [`machine::Machine`] → [`machine::Command`]. The rest is
//! what the command `cloister` adds to it.

// They panic when the reader has gone away; `report::tell` does not.
#![deny(clippy::print_stderr, clippy::print_stdout)]

pub mod launch;

pub mod control;

pub mod machine;

pub mod template;

pub mod tail;

pub mod text;

pub mod audit;

pub mod cli;

pub mod commands;

pub mod doctor;

pub mod egress;

pub mod images;

pub mod inspect;

pub mod prove;

pub mod team;

pub mod exit_codes;

pub mod operator;

pub mod pool;

pub mod pump;

pub mod quantity;

pub mod report;

pub mod saved;

pub mod signals;

pub mod secrets;

pub mod state;

pub mod terminal;

mod temporary;

pub mod transfer;

pub mod warden;
