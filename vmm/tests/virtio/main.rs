//! The virtio devices behind their transport, driven by a simulated guest.

#![expect(clippy::unwrap_used, reason = "a test that can't go on has failed")]
#![expect(clippy::panic, clippy::cast_possible_truncation, reason = "as above")]

mod driver;

mod peer;

mod balloon;

mod rng;

mod fs;

mod transport;

mod saved;

mod vsock;

mod vsock_credit;

mod torture;

mod throughput;
