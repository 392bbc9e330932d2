//! The language of the whole-system tests: call the built `cloister`, look at what it said and left.
//!
//! ```no_run
//! use cloister_tests::Call;
//! Call::run().command(["sh", "-c", "exit 7"]).output().exits(7);
//! ```
//!
//! A test runs wherever a Linux guest can run; which place that is, is decided before the test
//! executable starts (`scripts/on-kvm`). Everything that waits has a limit and then fails with what
//! was said so far.
#![expect(clippy::panic, reason = "an expectation that does not hold fails the test")]

pub mod prefix;

mod call;

mod running;

mod terminal;

pub mod census;

pub mod image;

pub use call::{Call, Outcome};
pub use running::Running;
pub use terminal::Terminal;
