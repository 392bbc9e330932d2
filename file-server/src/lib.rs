//! The file server: serves a team's shared directories to its virtual machine. See `ARCHITECTURE.md`.
//!
//! Other crates may use only [`spec`] and [`control`].

pub mod spec;

pub mod control;

pub mod limits;

pub mod process;

pub mod decode;

pub mod worker;

pub mod memory;

pub mod router;

pub mod share;

pub mod budget;

pub mod owner;

pub mod keep;

pub mod locks;

pub mod ranges;

pub mod carried;

pub mod xattrs;

pub mod seccomp;

pub mod sys;
