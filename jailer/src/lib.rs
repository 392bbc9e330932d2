//! The jailer: starts a program inside its jail. See `ARCHITECTURE.md`, "The jail".
//!
//! Other crates may use only [`spec`], [`step`], [`share`] and [`policy`].

pub mod spec;

pub mod step;

pub mod outside;

pub mod inside;

pub mod root;

pub mod landlock;

pub mod filter;

pub mod policy;

pub mod share;

pub mod mount_calls;

pub mod times;

pub mod sys;

pub(crate) mod weak;
