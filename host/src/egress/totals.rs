//! What an agent's egress came to since its team started, for who watches from outside. Nothing is left out of it, as
//! events are when there are too many of them.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Counts of one agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// How often each kind of event happened, by the name that it has in the audit log.
    pub events: BTreeMap<String, u64>,
    /// Streams that are open.
    pub open: u64,
    /// Bytes to the outside, of streams that have ended.
    pub sent: u64,
    /// Bytes from the outside, of streams that have ended.
    pub received: u64,
    /// Connections that were made.
    pub connects: u64,
    /// How long making them took in all, with finding the name's addresses, in microseconds.
    pub connect_us: u64,
}

impl Totals {
    /// An event happened.
    pub(super) fn event(&mut self, kind: &str) {
        match self.events.get_mut(kind) {
            Some(count) => *count = count.saturating_add(1),
            None => _ = self.events.insert(kind.to_owned(), 1),
        }
    }

    /// A connection was made.
    pub(super) fn connected(&mut self, took: Duration) {
        let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.connects = self.connects.saturating_add(1);
        self.connect_us = self.connect_us.saturating_add(took);
    }

    /// A stream ended.
    pub(super) fn moved(&mut self, sent: u64, received: u64) {
        self.sent = self.sent.saturating_add(sent);
        self.received = self.received.saturating_add(received);
    }
}
