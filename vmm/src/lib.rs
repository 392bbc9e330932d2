//! The virtual machine monitor: owns one team's VM on KVM. See `ARCHITECTURE.md`.
//!
//! Other crates may use only [`spec`], [`control`] and [`exit`].

pub mod spec;

pub mod control;

pub mod exit;
