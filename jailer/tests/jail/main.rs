//! A jailed process, looked at from outside by what the kernel says of it: every step has a test that
//! fails when the step is taken out. Needs a control group file system (version 2) that this user may
//! write; its controllers are not needed here, the whole-system tests see them.
#![expect(clippy::unwrap_used, clippy::panic, reason = "what fails here fails the test")]

#[path = "../../../tests/tracer/child.rs"]
mod child;

mod calls;

mod harness;

mod state;

mod failures;

mod ends;

mod shares;
