//! The virtual machine monitor: owns one team's VM on KVM. See `ARCHITECTURE.md`.
//!
//! Other crates may use only [`spec`], [`control`] and [`exit`].

pub mod spec;

mod working_set;

pub mod extents;

pub mod control;

pub mod exit;

pub mod control_socket;

pub mod machine;

pub mod event_loop;

pub mod vcpu;

pub mod bus;

pub mod kernel;

pub mod snapshot;

pub mod fork;

pub mod probe;

pub mod toy;

pub mod devices;

pub mod kvm;

pub mod memory;

pub mod x86_64;

pub mod seccomp;

pub mod sys;
