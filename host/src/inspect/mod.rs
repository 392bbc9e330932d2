//! What the kernel says of a team's processes: who they are, what they see, what they may do.
//!
//! Everything is read from `/proc`, control group files and the kernel's copy of the filters; nothing
//! is taken from what this program, or the process itself, believes.

pub mod calls;

pub mod filters;

pub mod judge;

pub mod process;

mod trace;
