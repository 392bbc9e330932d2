//! What the host asks of the socket device, under the transport's lock.

use std::os::fd::OwnedFd;
use std::time::Instant;

use crate::control::{Event, Stats};

use super::super::Transport;
use super::super::device::Cause;
use super::anew::Anew;
use super::{RX, Vsock};

impl Transport<Vsock> {
    /// Connects `stream` to a port of the guest. Ends with [`Event::Connected`] or
    /// [`Event::Refused`]; at once when the guest's driver is not there.
    pub fn connect(&mut self, id: u32, port: u32, stream: OwnedFd) {
        let vsock = self.device_mut();
        vsock.finish_stop();
        if vsock.is_running() {
            vsock.table.connect(id, port, stream, Instant::now());
        } else {
            vsock.table.events.push(Event::Refused { id });
        }
        self.work(Cause::Queue(RX));
    }

    /// Lets the guest's connection of [`Event::Incoming`] in. Closes `stream` when the guest has
    /// given up meanwhile.
    pub fn accept(&mut self, id: u32, stream: OwnedFd) {
        let vsock = self.device_mut();
        vsock.finish_stop();
        vsock.table.accept(id, stream);
        self.work(Cause::Queue(RX));
    }

    /// Refuses the guest's connection of [`Event::Incoming`].
    pub fn refuse(&mut self, id: u32) {
        let vsock = self.device_mut();
        vsock.finish_stop();
        vsock.table.refuse(id);
        self.work(Cause::Queue(RX));
    }

    /// The machine is another than the one whose state this device took: the guest is to learn that
    /// the connections which it knows are gone, and gets no packet before it has.
    pub fn begin_anew(&mut self) {
        let vsock = self.device_mut();
        if vsock.is_running() {
            vsock.anew = Anew::Due;
        }
    }

    /// What the host is to be told. Fetch it after every `process`, `connect`, `accept` and
    /// `refuse`.
    pub fn take_events(&mut self) -> Vec<Event> {
        self.device_mut().table.take_events()
    }

    /// Fills in this device's share of the machine's counters.
    pub fn add_stats(&self, stats: &mut Stats) {
        let table = self.device().table();
        let counters = table.counters();
        stats.connections = u32::try_from(table.len()).unwrap_or(u32::MAX);
        stats.vsock_from_guest_bytes = counters.from_guest_bytes;
        stats.vsock_to_guest_bytes = counters.to_guest_bytes;
        stats.vsock_rejected = counters.rejected;
        stats.rejected_accesses += self.rejected_accesses();
    }
}
