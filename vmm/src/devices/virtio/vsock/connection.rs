//! One connection between a port of the guest and a stream of the host.
//!
//! Readiness of the stream is remembered, never polled: the stream is watched edge-triggered, so a
//! connection that can't go on costs nothing until the event comes that changes it.

use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use vm_memory::VolatileSlice;
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use super::super::sys;
use super::backlog::Backlog;
use super::credit::{ReceiveCredit, SendCredit};
use super::packet::{Header, Key, MAX_DATA, Operation, SHUTDOWN_RECEIVE, SHUTDOWN_SEND};
use super::state::{Ended, Outbox, Outcome, Phase};

/// A connection. See the module.
#[derive(Debug)]
pub struct Connection {
    key: Key,
    phase: Phase,
    stream: Option<UnixStream>,
    send: SendCredit,
    receive: ReceiveCredit,
    backlog: Backlog,
    outbox: Outbox,
    /// The stream may have something to read: until a read would block, or was short.
    readable: bool,
    /// The last read got as much as there was room for: give it more room.
    hungry: bool,
    /// The host ended its direction: there is an end to be read.
    ends: bool,
    /// The stream is watched for room to write.
    watching_writable: bool,
    /// The host ended its direction.
    host_finished: bool,
    /// The host takes nothing any more.
    host_gone: bool,
    guest_sends: bool,
    guest_receives: bool,
    /// The host was told that the guest ended its direction.
    end_passed_on: bool,
    /// The guest was asked for credit and has not given any since.
    credit_asked: bool,
    /// It is in the table's list of those that have something to send.
    pub(super) queued: bool,
}

impl Connection {
    /// A connection that the host asks for.
    #[must_use]
    pub fn to_guest(key: Key, id: u32, stream: OwnedFd, buffer: u32, deadline: Instant) -> Self {
        let outbox = Outbox { request: true, ..Outbox::default() };
        let stream = Some(UnixStream::from(stream));
        Self::new(key, Phase::Connecting { id, deadline }, stream, buffer, outbox)
    }

    /// A connection that the guest asks for.
    #[must_use]
    pub fn from_guest(key: Key, id: u32, buffer: u32, deadline: Instant) -> Self {
        Self::new(key, Phase::Incoming { id, deadline }, None, buffer, Outbox::default())
    }

    fn new(
        key: Key,
        phase: Phase,
        stream: Option<UnixStream>,
        buffer: u32,
        outbox: Outbox,
    ) -> Self {
        Self {
            key,
            phase,
            stream,
            send: SendCredit::default(),
            receive: ReceiveCredit::new(buffer),
            backlog: Backlog::default(),
            outbox,
            readable: false,
            hungry: false,
            ends: false,
            watching_writable: false,
            host_finished: false,
            host_gone: false,
            guest_sends: true,
            guest_receives: true,
            end_passed_on: false,
            credit_asked: false,
            queued: false,
        }
    }

    /// Its ports.
    #[must_use]
    pub fn key(&self) -> Key {
        self.key
    }

    /// Where it is in its life.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// The buffer promised to the guest, in bytes.
    #[must_use]
    pub fn promised(&self) -> u32 {
        self.receive.buffer()
    }

    /// Bytes held for the host.
    #[must_use]
    pub fn held(&self) -> usize {
        self.backlog.len()
    }

    /// Every packet of the guest tells its credit. `false`: the guest lies.
    #[must_use]
    pub fn update_credit(&mut self, header: &Header) -> bool {
        let honest = self.send.update(header.buffer, header.forwarded);
        if self.send.free() > 0 {
            self.credit_asked = false;
        }
        honest
    }

    /// The host lets the guest's connection in.
    ///
    /// # Errors
    /// The stream can't be watched.
    pub fn accept(&mut self, stream: OwnedFd, epoll: &Epoll, serial: u64) -> io::Result<()> {
        self.stream = Some(UnixStream::from(stream));
        self.outbox.response = true;
        self.open(epoll, serial)
    }

    /// Both sides agreed: data may flow.
    ///
    /// # Errors
    /// The stream can't be watched.
    pub fn open(&mut self, epoll: &Epoll, serial: u64) -> io::Result<()> {
        self.phase = Phase::Open;
        self.watch(epoll, serial, ControlOperation::Add)
    }

    /// Watches for room to write exactly while something waits to be written: a socket's writer
    /// would else be woken each time its reader reads.
    ///
    /// # Errors
    /// The stream can't be watched.
    pub fn update_watch(&mut self, epoll: &Epoll, serial: u64) -> io::Result<()> {
        if self.watching_writable == self.backlog.is_empty() && self.stream.is_some() {
            self.watch(epoll, serial, ControlOperation::Modify)?;
        }
        Ok(())
    }

    fn watch(&mut self, epoll: &Epoll, serial: u64, how: ControlOperation) -> io::Result<()> {
        let Some(stream) = &self.stream else { return Ok(()) };
        self.watching_writable = !self.backlog.is_empty();
        let mut events = EventSet::EDGE_TRIGGERED | EventSet::READ_HANG_UP | EventSet::IN;
        events.set(EventSet::OUT, self.watching_writable);
        epoll.ctl(how, stream.as_raw_fd(), EpollEvent::new(events, serial))
    }

    /// The guest sent data.
    pub fn data_from_guest(&mut self, payload: &[VolatileSlice<'_>]) -> Outcome {
        let length: usize = payload.iter().map(VolatileSlice::len).sum();
        let Ok(bytes) = u32::try_from(length) else { return Outcome::Violation };
        if bytes == 0 || !self.guest_sends || !self.receive.accept(bytes) {
            return Outcome::Violation;
        }
        let written = if self.backlog.is_empty() { self.write_through(payload) } else { 0 };
        if self.host_gone {
            // Nobody reads it; the guest learns of that by a shutdown.
            self.forwarded(length);
        } else {
            self.forwarded(written);
            if written < length {
                self.backlog.append(payload, written);
            }
        }
        Outcome::Keep
    }

    /// The guest ended one or both directions.
    pub fn shutdown_from_guest(&mut self, flags: u32) -> Outcome {
        if flags & SHUTDOWN_RECEIVE != 0 {
            self.guest_receives = false;
            self.shut_stream(Shutdown::Read);
        }
        if flags & SHUTDOWN_SEND != 0 {
            self.guest_sends = false;
        }
        self.after_write()
    }

    /// The guest asked for credit.
    pub fn credit_requested(&mut self) {
        self.outbox.credit_update = true;
    }

    /// The guest's side is gone. Whether something is left to be written to the host.
    pub fn drain(&mut self) -> bool {
        self.phase = Phase::Draining;
        self.outbox = Outbox::default();
        self.shut_stream(Shutdown::Read);
        if let Some(stream) = &self.stream {
            sys::discard(stream.as_fd());
        }
        !self.backlog.is_empty() && !self.host_gone
    }

    /// The stream became ready for something.
    pub fn stream_event(&mut self, events: EventSet) -> Outcome {
        if events.intersects(EventSet::IN | EventSet::READ_HANG_UP) {
            self.readable = true;
        }
        self.ends |= events.intersects(EventSet::READ_HANG_UP | EventSet::HANG_UP);
        if events.intersects(EventSet::HANG_UP | EventSet::ERROR) {
            self.lose_host();
        }
        if let Some(stream) = self.stream.as_ref().filter(|_| !self.backlog.is_empty()) {
            match self.backlog.flush(stream) {
                Ok(written) => self.forwarded(written),
                Err(_) => self.lose_host(),
            }
        }
        match self.phase {
            Phase::Draining if self.backlog.is_empty() => Outcome::Drained,
            // Nothing can flow in either direction any more.
            Phase::Open if self.host_gone && !self.reads_host() => Outcome::Reset,
            Phase::Open => self.after_write(),
            _ => Outcome::Keep,
        }
    }

    /// Whether it has a packet to send now.
    pub fn has_packet(&mut self) -> bool {
        // The guest's ports may name another connection by now.
        if self.phase == Phase::Draining {
            return false;
        }
        if self.phase == Phase::Open && self.readable && self.reads_host() {
            if self.send.free() > 0 {
                return true;
            }
            if !self.credit_asked {
                self.credit_asked = true;
                self.outbox.credit_request = true;
            }
        }
        !self.outbox.is_empty()
    }

    /// How many bytes of room are of use for its next packet.
    #[must_use]
    pub fn room_wanted(&self) -> usize {
        if self.hungry { MAX_DATA.min(self.send.free() as usize) } else { 0 }
    }

    /// The next packet's header; its data was read into `room`. `None`: there is none after all.
    ///
    /// # Errors
    /// It is over; the guest is to get a reset instead.
    pub fn next_packet(&mut self, room: &[VolatileSlice<'_>]) -> Result<Option<Header>, Ended> {
        let outbox = &mut self.outbox;
        if std::mem::take(&mut outbox.request) {
            return Ok(Some(self.header(Operation::Request)));
        }
        if std::mem::take(&mut outbox.response) {
            return Ok(Some(self.header(Operation::Response)));
        }
        let length = self.read_host(room)?;
        if length > 0 {
            let header = self.header(Operation::Data);
            return Ok(Some(Header { length, ..header }));
        }
        let flags = std::mem::take(&mut self.outbox.shutdown);
        if flags != 0 {
            let header = self.header(Operation::Shutdown);
            return Ok(Some(Header { flags, ..header }));
        }
        if std::mem::take(&mut self.outbox.credit_request) {
            return Ok(Some(self.header(Operation::CreditRequest)));
        }
        if self.outbox.credit_update {
            return Ok(Some(self.header(Operation::CreditUpdate)));
        }
        Ok(None)
    }

    /// A header with the credit, which every packet tells.
    fn header(&mut self, operation: Operation) -> Header {
        self.outbox.credit_update = false;
        let (buffer, forwarded) = self.receive.announce();
        Header { buffer, forwarded, ..Header::to_guest(self.key, operation) }
    }

    fn reads_host(&self) -> bool {
        !self.host_finished && self.guest_receives
    }

    /// Reads from the stream what fits `room` and the guest's credit; 0: nothing to be sent.
    fn read_host(&mut self, room: &[VolatileSlice<'_>]) -> Result<u32, Ended> {
        let free = self.send.free();
        let Some(stream) = &self.stream else { return Ok(0) };
        if self.phase != Phase::Open || !self.readable || !self.reads_host() || free == 0 {
            return Ok(0);
        }
        let room = sys::first_bytes(room, free as usize);
        let offered: usize = room.iter().map(VolatileSlice::len).sum();
        match sys::receive(stream.as_fd(), &room) {
            Ok(0) => {
                self.host_finished = true;
                if self.host_gone {
                    return Err(Ended);
                }
                self.outbox.shutdown |= SHUTDOWN_SEND;
                Ok(0)
            }
            Ok(count) => {
                self.hungry = count == offered;
                // A short read emptied the stream (epoll(7)): new data makes a new event. An end
                // that was announced already does not.
                self.readable = self.hungry || self.ends;
                let count = u32::try_from(count).map_err(|_| Ended)?;
                self.send.spend(count);
                Ok(count)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.readable = false;
                self.hungry = false;
                Ok(0)
            }
            Err(_) => Err(Ended),
        }
    }

    /// Writes straight from guest memory; what the stream does not take is left to the caller.
    fn write_through(&mut self, payload: &[VolatileSlice<'_>]) -> usize {
        let Some(stream) = self.stream.as_ref().filter(|_| !self.host_gone) else { return 0 };
        match sys::send(stream.as_fd(), payload) {
            Ok(written) => written,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(_) => {
                self.lose_host();
                0
            }
        }
    }

    fn forwarded(&mut self, bytes: usize) {
        // Never more than the credit, a `u32`.
        self.receive.forward(u32::try_from(bytes).unwrap_or(u32::MAX));
        if self.receive.worth_announcing() {
            self.outbox.credit_update = true;
        }
    }

    /// The host takes nothing any more; what it sent before it went is still read.
    fn lose_host(&mut self) {
        if !self.host_gone {
            self.host_gone = true;
            self.readable = true;
            self.ends = true;
            let lost = self.backlog.len();
            self.backlog.clear();
            self.forwarded(lost);
            self.outbox.shutdown |= SHUTDOWN_RECEIVE;
        }
    }

    /// Passes the guest's end of sending on when all that it sent is written. A guest that ended both
    /// directions waits for a reset (Linux for up to 8 s) before it lets its socket go.
    fn after_write(&mut self) -> Outcome {
        if self.guest_sends || !self.backlog.is_empty() {
            return Outcome::Keep;
        }
        if !self.guest_receives {
            return Outcome::Reset;
        }
        if !self.end_passed_on {
            self.end_passed_on = true;
            self.shut_stream(Shutdown::Write);
        }
        Outcome::Keep
    }

    fn shut_stream(&self, how: Shutdown) {
        if let Some(stream) = &self.stream {
            // Fails only when the host has closed its end: then there is nothing to be told.
            drop(stream.shutdown(how));
        }
    }
}
