//! The states of a connection and what an event can make of it.

use std::time::Instant;

/// Where a connection is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The host asked, the guest has not answered.
    Connecting {
        /// The host's name for it.
        id: u32,
        /// When the guest is given up.
        deadline: Instant,
    },
    /// The guest asked, the host has not answered.
    Incoming {
        /// The name told to the host.
        id: u32,
        /// When the host is given up.
        deadline: Instant,
    },
    /// Data flows.
    Open,
    /// The guest's side is gone; what it sent last is still being written to the host.
    Draining,
}

/// What follows from an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Outcome {
    /// Nothing.
    Keep,
    /// It is over: the guest gets a reset.
    Reset,
    /// The guest broke the rules: it gets a reset, and it is counted.
    Violation,
    /// A draining connection has nothing left.
    Drained,
}

/// The connection ended while a packet was to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the stream ended")]
pub struct Ended;

/// Packets without data that wait to be sent.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Outbox {
    pub(super) request: bool,
    pub(super) response: bool,
    /// Flags not sent yet.
    pub(super) shutdown: u32,
    pub(super) credit_update: bool,
    pub(super) credit_request: bool,
}

impl Outbox {
    pub(super) fn is_empty(&self) -> bool {
        !(self.request
            || self.response
            || self.shutdown != 0
            || self.credit_update
            || self.credit_request)
    }
}
