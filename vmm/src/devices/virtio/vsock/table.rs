//! All connections: who is who, who has something to send, whose time is over.
//!
//! Knows nothing of queues and guest memory: a packet comes in as header and data, and one goes out
//! as header with its data read into the room that was given. So hostile packets can be tried
//! without a guest.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::time::{Duration, Instant};

use vm_memory::VolatileSlice;
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::timerfd::TimerFd;

use crate::control::Event;

use super::connection::Connection;
use super::establish::FIRST_PORT;
use super::packet::{Header, Key, Operation};
use super::state::{Outcome, Phase};

/// Most connections at once, in any phase: bounds descriptors and memory.
pub const MAX_CONNECTIONS: usize = 1024;
/// Most connections of the guest about which the host was told and has not answered, the guest's
/// change of mind not counted: bounds what a guest can queue up for the host.
pub const MAX_INCOMING: usize = 512;
/// Most resets that wait for packets that belong to no connection.
pub const MAX_STRAY_RESETS: usize = 128;
/// Most resets that wait in all.
const MAX_RESETS: usize = MAX_STRAY_RESETS + MAX_CONNECTIONS;
/// Ready streams that are looked at in one turn; the rest stay ready.
const EVENTS_PER_TURN: usize = 64;
/// What the timer is called in the inner epoll; connections count from 1.
const TIMER: u64 = 0;

/// Counts since the device was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Bytes of data that the guest sent.
    pub from_guest_bytes: u64,
    /// Bytes of data that the guest was sent.
    pub to_guest_bytes: u64,
    /// Packets from the guest that were dropped or answered with a reset.
    pub rejected: u64,
}

/// Something to send.
#[derive(Clone, Copy, Debug)]
pub enum Ready {
    /// A reset that needs no connection.
    Reset(Header),
    /// This connection has a packet.
    Connection(u64),
}

/// The connections of one guest.
#[derive(Debug)]
pub struct Table {
    pub(super) epoll: Epoll,
    timer: TimerFd,
    timer_set_to: Option<Instant>,
    pub(super) connections: BTreeMap<u64, Connection>,
    pub(super) serials: BTreeMap<Key, u64>,
    /// What the host was told and has not answered; `None`: the guest's side is gone already.
    pub(super) incoming: BTreeMap<u32, Option<u64>>,
    deadlines: BTreeSet<(Instant, u64)>,
    ready: VecDeque<u64>,
    resets: VecDeque<Header>,
    pub(super) events: Vec<Event>,
    pub(super) counters: Counters,
    pub(super) promised: u64,
    next_serial: u64,
    pub(super) next_port: u32,
    pub(super) next_incoming: u32,
}

impl Table {
    /// An empty table.
    ///
    /// # Errors
    /// No epoll or timer could be made.
    pub fn new() -> io::Result<Self> {
        let epoll = Epoll::new()?;
        let timer = TimerFd::new()?;
        epoll.ctl(
            ControlOperation::Add,
            timer.as_raw_fd(),
            EpollEvent::new(EventSet::IN, TIMER),
        )?;
        Ok(Self {
            epoll,
            timer,
            timer_set_to: None,
            connections: BTreeMap::new(),
            serials: BTreeMap::new(),
            incoming: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            ready: VecDeque::new(),
            resets: VecDeque::new(),
            events: Vec::new(),
            counters: Counters::default(),
            promised: 0,
            next_serial: TIMER + 1,
            next_port: FIRST_PORT,
            next_incoming: 0,
        })
    }

    /// Readable when [`Self::poll`] has something to do.
    #[must_use]
    pub fn source(&self) -> RawFd {
        self.epoll.as_raw_fd()
    }

    /// Open connections, in any phase.
    #[must_use]
    pub fn len(&self) -> usize {
        self.connections.len()
    }

    /// Whether there is no connection.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.connections.is_empty()
    }

    /// Counts since the start.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Bytes of guest data held for streams that did not take them yet.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.connections.values().map(Connection::held).sum()
    }

    /// What the host is to be told.
    pub fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// The guest's side of everything is gone; it is not told. What it sent is still written.
    pub fn close_all(&mut self) {
        let serials: Vec<_> = self.serials.values().copied().collect();
        for serial in serials {
            self.forget_guest(serial);
        }
        self.ready.clear();
        self.resets.clear();
    }

    /// Handles ready streams and the timer. Call it when [`Self::source`] is readable.
    ///
    /// # Errors
    /// The host's epoll or timer failed.
    pub fn poll(&mut self, now: Instant) -> io::Result<()> {
        let mut events = [EpollEvent::default(); EVENTS_PER_TURN];
        let count = match self.epoll.wait(0, &mut events) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            result => result?,
        };
        for event in events.iter().take(count) {
            if event.data() == TIMER {
                self.timer_set_to = None;
                self.timer.clear().map_err(io::Error::from)?;
            } else if let Some(connection) = self.connections.get_mut(&event.data()) {
                let outcome = connection.stream_event(event.event_set());
                self.settle(event.data(), outcome);
            }
        }
        self.expire(now);
        Ok(())
    }

    /// Sets the timer to the earliest deadline. Call it when a turn ends.
    ///
    /// # Errors
    /// The host's timer failed.
    pub fn set_timer(&mut self, now: Instant) -> io::Result<()> {
        let earliest = self.deadlines.first().map(|(deadline, _)| *deadline);
        // A timer that is set too early only makes one turn in vain.
        if self.timer_set_to.is_some() || earliest.is_none() {
            return Ok(());
        }
        let wait = earliest.map_or(Duration::ZERO, |at| at.saturating_duration_since(now));
        // A wait of 0 would disarm it.
        self.timer.reset(wait.max(Duration::from_micros(1)), None).map_err(io::Error::from)?;
        self.timer_set_to = earliest;
        Ok(())
    }

    /// Whether there is something to send.
    #[must_use]
    pub fn has_ready(&self) -> bool {
        !self.resets.is_empty() || !self.ready.is_empty()
    }

    /// The next that has something to send; connections take turns.
    pub fn next_ready(&mut self) -> Option<Ready> {
        if let Some(header) = self.resets.pop_front() {
            return Some(Ready::Reset(header));
        }
        self.ready.pop_front().map(Ready::Connection)
    }

    /// How many bytes of room are of use for this.
    #[must_use]
    pub fn room_wanted(&self, ready: Ready) -> usize {
        match ready {
            Ready::Reset(_) => 0,
            Ready::Connection(serial) => {
                self.connections.get(&serial).map_or(0, Connection::room_wanted)
            }
        }
    }

    /// There was no room for a packet: it stays the next.
    pub fn put_back(&mut self, ready: Ready) {
        match ready {
            Ready::Reset(header) => self.resets.push_front(header),
            Ready::Connection(serial) => self.ready.push_front(serial),
        }
    }

    /// Makes the packet, its data read into `room`. `None`: there is none after all.
    pub fn make_packet(&mut self, ready: Ready, room: &[VolatileSlice<'_>]) -> Option<Header> {
        let serial = match ready {
            Ready::Reset(header) => return Some(header),
            Ready::Connection(serial) => serial,
        };
        let connection = self.connections.get_mut(&serial)?;
        connection.queued = false;
        let key = connection.key();
        let Ok(packet) = connection.next_packet(room) else {
            self.forget_guest(serial);
            return Some(Header::to_guest(key, Operation::Reset));
        };
        self.settle(serial, Outcome::Keep);
        let length = packet.map_or(0, |header| header.length);
        self.counters.to_guest_bytes += u64::from(length);
        packet
    }

    /// Does what follows from an event of a connection.
    pub(super) fn settle(&mut self, serial: u64, outcome: Outcome) {
        let Some(connection) = self.connections.get_mut(&serial) else { return };
        match outcome {
            Outcome::Keep => {
                if !connection.queued && connection.has_packet() {
                    connection.queued = true;
                    self.ready.push_back(serial);
                }
                if connection.update_watch(&self.epoll, serial).is_err() {
                    self.settle(serial, Outcome::Reset);
                }
            }
            Outcome::Reset | Outcome::Violation => {
                let header = Header::to_guest(connection.key(), Operation::Reset);
                if outcome == Outcome::Violation {
                    self.counters.rejected += 1;
                }
                if connection.phase() != Phase::Draining && self.resets.len() < MAX_RESETS {
                    self.resets.push_back(header);
                }
                self.forget_guest(serial);
            }
            Outcome::Drained => self.remove(serial),
        }
    }

    /// A packet that belongs to no connection: answered with a reset as long as few wait.
    pub(super) fn reject_stray(&mut self, header: &Header) {
        self.counters.rejected += 1;
        if self.resets.len() < MAX_STRAY_RESETS {
            self.resets.push_back(header.reset_for());
        }
    }

    /// The guest's side of a connection is gone: its ports are free, the host is told what it waits
    /// for, and the stream is closed as soon as all that the guest sent is written.
    pub(super) fn forget_guest(&mut self, serial: u64) {
        self.forget_deadline(serial);
        let Some(connection) = self.connections.get_mut(&serial) else { return };
        match connection.phase() {
            Phase::Connecting { id, .. } => self.events.push(Event::Refused { id }),
            Phase::Incoming { id, .. } => {
                self.incoming.entry(id).and_modify(|serial| *serial = None);
            }
            Phase::Open => {}
            Phase::Draining => return self.remove(serial),
        }
        self.serials.remove(&connection.key());
        if !connection.drain() || connection.update_watch(&self.epoll, serial).is_err() {
            self.remove(serial);
        }
    }

    fn expire(&mut self, now: Instant) {
        while let Some((_, serial)) = self.deadlines.first().filter(|(at, _)| *at <= now).copied() {
            self.settle(serial, Outcome::Reset);
            // A connection's deadline goes with it; this is for one that has none.
            self.deadlines.retain(|(_, other)| *other != serial);
        }
    }

    pub(super) fn insert(&mut self, connection: Connection, deadline: Instant) -> u64 {
        let serial = self.next_serial;
        self.next_serial += 1;
        self.promised += u64::from(connection.promised());
        self.serials.insert(connection.key(), serial);
        self.connections.insert(serial, connection);
        self.deadlines.insert((deadline, serial));
        self.settle(serial, Outcome::Keep);
        serial
    }

    fn remove(&mut self, serial: u64) {
        if let Some(connection) = self.connections.remove(&serial) {
            self.promised -= u64::from(connection.promised());
            if connection.queued {
                self.ready.retain(|other| *other != serial);
            }
        }
    }

    pub(super) fn forget_deadline(&mut self, serial: u64) {
        let connection = self.connections.get(&serial);
        if let Some(Phase::Connecting { deadline, .. } | Phase::Incoming { deadline, .. }) =
            connection.map(Connection::phase)
        {
            self.deadlines.remove(&(deadline, serial));
        }
    }
}

#[cfg(test)]
#[path = "table_test.rs"]
mod tests;
