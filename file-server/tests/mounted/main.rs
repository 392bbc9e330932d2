//! The server's files through a kernel: this machine's own, by `/dev/fuse`, in place of a guest's. It sends the same
//! messages, and real programs run at full speed. Needs root; each test has a mount namespace of its own.
#![expect(clippy::unwrap_used, reason = "a test that can't go on has failed")]

mod bridge;

mod programs;

mod sqlite;
