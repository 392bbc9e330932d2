//! Archives: tar streams read within bounds, and their layers applied to a tree.
//!
//! Everything here is fed with hostile bytes; see `SECURITY.md`.

pub mod compression;

pub mod entry;

pub mod fault;

pub mod path;

pub mod stream;

pub mod tree;

pub mod attributes;

pub(crate) mod content;

pub mod apply;

mod whiteout;

pub mod finish;

pub mod pack;
