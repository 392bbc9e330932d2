//! What of the host a team may see and change: the operator's list, what nobody may share, and files that
//! are opened once.
//!
//! A path of a team file is resolved once, by the kernel, symbolic links included. Where that led is
//! read from the descriptor and held against the lists; the descriptor is what the plan carries, and the
//! path is never used again.

pub mod open;

pub mod person;

pub mod policy;
