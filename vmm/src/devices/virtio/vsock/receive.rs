//! What the guest's packets mean. Everything in them may be wrong.

use std::time::Instant;

use vm_memory::VolatileSlice;

use crate::control::{GUEST_CID, HOST_CID};

use super::packet::{Header, Operation, SHUTDOWN_RECEIVE, SHUTDOWN_SEND, TYPE_STREAM};
use super::state::{Outcome, Phase};
use super::table::Table;

impl Table {
    /// Handles a packet from the guest: `header`, copied out of its memory, and the data that its
    /// descriptors really hold, which is compared with what the header says.
    pub fn packet_from_guest(
        &mut self,
        header: &Header,
        payload: &[VolatileSlice<'_>],
        now: Instant,
    ) {
        // A guest has one address; packets from others are not answered, so that none can be sent
        // to somebody else (VIRTIO 1.2, 5.10.6).
        if header.source_cid != GUEST_CID {
            return self.drop_packet();
        }
        let operation = Operation::from_code(header.operation);
        let serial = self.serials.get(&header.key_from_guest()).copied();
        let ours = header.destination_cid == HOST_CID && header.socket_type == TYPE_STREAM;
        let (serial, operation) = match (serial, operation) {
            (_, Some(operation)) if !ours => return self.stray(header, operation),
            (None, Some(Operation::Request)) if header.length == 0 => {
                if !self.incoming(header, now) {
                    self.reject_stray(header);
                }
                return;
            }
            (None, Some(operation)) => return self.stray(header, operation),
            (Some(serial), Some(operation)) => (serial, operation),
            (_, None) => return self.reject_stray(header),
        };
        let length: usize = payload.iter().map(VolatileSlice::len).sum();
        let expected = if operation == Operation::Data { length } else { 0 };
        let outcome = if usize::try_from(header.length) == Ok(expected) {
            self.packet_of(serial, operation, header, payload)
        } else {
            Outcome::Violation
        };
        self.settle(serial, outcome);
    }

    /// A packet that can't even be read as one.
    pub fn drop_packet(&mut self) {
        self.counters.rejected += 1;
    }

    /// A reset for a connection that is gone is no fault and gets no answer: two resets can cross.
    fn stray(&mut self, header: &Header, operation: Operation) {
        if operation != Operation::Reset {
            self.reject_stray(header);
        }
    }

    fn packet_of(
        &mut self,
        serial: u64,
        operation: Operation,
        header: &Header,
        payload: &[VolatileSlice<'_>],
    ) -> Outcome {
        let Some(connection) = self.connections.get_mut(&serial) else { return Outcome::Keep };
        if !connection.update_credit(header) {
            return Outcome::Violation;
        }
        match (connection.phase(), operation) {
            (_, Operation::Reset) => {
                self.forget_guest(serial);
                Outcome::Keep
            }
            (Phase::Connecting { id, .. }, Operation::Response) => {
                self.connected(serial, id);
                Outcome::Keep
            }
            (Phase::Open, Operation::Data) => {
                let outcome = connection.data_from_guest(payload);
                if outcome == Outcome::Keep {
                    self.counters.from_guest_bytes += u64::from(header.length);
                }
                outcome
            }
            (Phase::Open, Operation::Shutdown) => {
                let known = header.flags & (SHUTDOWN_RECEIVE | SHUTDOWN_SEND);
                if known != header.flags || known == 0 {
                    self.counters.rejected += 1;
                }
                connection.shutdown_from_guest(known)
            }
            // The guest gave up before the host answered.
            (Phase::Incoming { .. }, Operation::Shutdown) => Outcome::Reset,
            (Phase::Open, Operation::CreditRequest) => {
                connection.credit_requested();
                Outcome::Keep
            }
            (Phase::Open, Operation::CreditUpdate) => Outcome::Keep,
            _ => Outcome::Violation,
        }
    }
}
