//! How connections come to be: asked for by either side, answered by the other.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use crate::control::Event;

use super::connection::Connection;
use super::packet::{Header, Key};
use super::state::Outcome;
use super::table::{MAX_CONNECTIONS, MAX_INCOMING, Table};

/// How long a guest may take to answer a connection, and the host to answer one of the guest's
/// (a Linux guest gives up after 2 s by itself).
pub const ANSWER_TIME: Duration = Duration::from_secs(5);
/// Credit of a connection: four of the largest packets that Linux sends, so that one can be
/// under way while another is being written.
pub const LARGE_BUFFER: u32 = 256 << 10;
/// Credit of a connection when [`LARGE_BUFFERS_TOTAL`] is promised already.
pub const SMALL_BUFFER: u32 = 16 << 10;
/// Promised to all connections before new ones get small buffers. With [`MAX_CONNECTIONS`] small
/// ones on top it bounds what a guest can make the device hold: 48 MiB, if the host reads nothing.
pub const LARGE_BUFFERS_TOTAL: u64 = 32 << 20;
/// The host's side of connections that it asks for takes ports from here on, away from those on
/// which a host listens.
pub(super) const FIRST_PORT: u32 = 1 << 30;
impl Table {
    /// The host connects `stream` to a port of the guest.
    pub fn connect(&mut self, id: u32, port: u32, stream: OwnedFd, now: Instant) {
        if self.connections.len() >= MAX_CONNECTIONS {
            self.events.push(Event::Refused { id });
            return;
        }
        let key = self.free_key(port);
        let deadline = now + ANSWER_TIME;
        let buffer = self.promise();
        self.insert(Connection::to_guest(key, id, stream, buffer, deadline), deadline);
    }

    /// The guest connects to a port of the host. `false`: there is no room for it.
    pub(super) fn incoming(&mut self, header: &Header, now: Instant) -> bool {
        let full = self.connections.len() >= MAX_CONNECTIONS;
        if full || self.incoming.len() >= MAX_INCOMING {
            return false;
        }
        let id = self.next_incoming;
        self.next_incoming = id.wrapping_add(1);
        let key = header.key_from_guest();
        let deadline = now + ANSWER_TIME;
        let buffer = self.promise();
        let mut connection = Connection::from_guest(key, id, buffer, deadline);
        // Nothing was sent yet, so nothing but 0 can be true; another value is just not taken.
        let _honest = connection.update_credit(header);
        let serial = self.insert(connection, deadline);
        self.incoming.insert(id, Some(serial));
        self.events.push(Event::Incoming { id, port: key.host_port });
        true
    }

    /// The host lets the guest's connection in. A stream for one that is gone is closed.
    pub fn accept(&mut self, id: u32, stream: OwnedFd) {
        let Some(serial) = self.incoming.remove(&id).flatten() else { return };
        self.forget_deadline(serial);
        let Some(connection) = self.connections.get_mut(&serial) else { return };
        let outcome = match connection.accept(stream, &self.epoll, serial) {
            Ok(()) => Outcome::Keep,
            Err(_) => Outcome::Reset,
        };
        self.settle(serial, outcome);
    }

    /// The host does not let the guest's connection in.
    pub fn refuse(&mut self, id: u32) {
        if let Some(serial) = self.incoming.remove(&id).flatten() {
            self.settle(serial, Outcome::Reset);
        }
    }

    /// The guest took the host's connection.
    pub(super) fn connected(&mut self, serial: u64, id: u32) {
        self.forget_deadline(serial);
        let Some(connection) = self.connections.get_mut(&serial) else { return };
        let outcome = match connection.open(&self.epoll, serial) {
            Ok(()) => {
                self.events.push(Event::Connected { id });
                Outcome::Keep
            }
            Err(_) => Outcome::Reset,
        };
        self.settle(serial, outcome);
    }

    fn promise(&self) -> u32 {
        if self.promised < LARGE_BUFFERS_TOTAL { LARGE_BUFFER } else { SMALL_BUFFER }
    }

    /// A port of the host's side that has no connection to this port of the guest. There are more
    /// ports than connections, so the search ends.
    fn free_key(&mut self, guest_port: u32) -> Key {
        loop {
            let key = Key { host_port: self.next_port, guest_port };
            self.next_port = self.next_port.wrapping_add(1).max(FIRST_PORT);
            if !self.serials.contains_key(&key) {
                return key;
            }
        }
    }
}
