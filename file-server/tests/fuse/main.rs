//! FUSE messages against the server's own code, without a machine: what a guest's kernel would send,
//! and what only a hostile one does.
#![expect(clippy::unwrap_used, reason = "a test that can't go on has failed")]

mod bed;

mod carried;

mod hostile_states;

mod hostile;

mod locks;

mod owners;

mod serving;

mod turns;
