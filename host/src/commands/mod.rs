//! The commands of `cloister`, a file each. Each takes its arguments and returns its exit code, having
//! told on standard error what went wrong.

pub mod bench;
pub mod completion;
pub mod doctor;
pub mod image;
pub mod run;
