//! Flow control of the socket device against a model: any interleaving of sending, reading, credit
//! and buffers on both sides. Nothing is lost or reordered, nobody sends beyond the other's credit,
//! what the device holds is bounded, and it never stands still with work to do.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;

use cloister_vmm::devices::virtio::vsock::packet::{Header, Operation};
use proptest::prelude::*;

use crate::peer::{Peer, TX, data_packet, packet};

const HOST_PORT: u32 = 1;

#[derive(Clone, Debug)]
enum Step {
    GuestSends(u32),
    GuestConsumes(u32),
    GuestTellsCredit,
    GuestShrinksBuffer(u32),
    GuestPostsBuffers,
    HostWrites(u32),
    HostReads(u32),
    DeviceTurns(u8),
}

fn steps() -> impl Strategy<Value = Vec<(bool, Step)>> {
    let step = prop_oneof![
        4 => (1_u32..65_536).prop_map(Step::GuestSends),
        3 => (1_u32..200_000).prop_map(Step::GuestConsumes),
        2 => Just(Step::GuestTellsCredit),
        1 => (0_u32..300_000).prop_map(Step::GuestShrinksBuffer),
        3 => Just(Step::GuestPostsBuffers),
        4 => (1_u32..100_000).prop_map(Step::HostWrites),
        3 => (1_u32..200_000).prop_map(Step::HostReads),
        6 => (1_u8..8).prop_map(Step::DeviceTurns),
    ];
    prop::collection::vec((any::<bool>(), step), 1..250)
}

/// One connection with both ends' view of it. The streams of bytes are counters, so that position
/// and order show in every byte.
struct Model {
    port: u32,
    stream: UnixStream,
    /// Guest to host: bytes sent, bytes that arrived, and the device's last word on its buffer.
    sent: u32,
    arrived: u32,
    device_buffer: u32,
    device_forwarded: u32,
    /// Host to guest: written, got by the guest, consumed there, its buffer, and what it told last.
    written: u32,
    got: u32,
    consumed: u32,
    buffer: u32,
    told_limit: u32,
}

fn pattern(start: u32, length: u32) -> Vec<u8> {
    (start..start + length).map(|place| (place ^ (place >> 8)).to_le_bytes()[0]).collect()
}

impl Model {
    fn new(peer: &mut Peer, port: u32) -> Self {
        let buffer = 100_000;
        let mut request = packet(Operation::Request, port, HOST_PORT);
        request.buffer = buffer;
        peer.send(&request, &[]);
        let event = peer.events();
        let [cloister_vmm::control::Event::Incoming { id, .. }] = event[..] else { panic!() };
        let (theirs, stream) = crate::peer::pair();
        peer.guest.transport.accept(id, theirs);
        peer.run();
        let packets = peer.packets(true);
        let (response, _) = &packets[0];
        Self {
            port,
            stream,
            sent: 0,
            arrived: 0,
            device_buffer: response.buffer,
            device_forwarded: 0,
            written: 0,
            got: 0,
            consumed: 0,
            buffer,
            told_limit: buffer,
        }
    }

    fn told(&mut self, header: Header) -> Header {
        self.told_limit = self.told_limit.max(self.consumed + self.buffer);
        Header { buffer: self.buffer, forwarded: self.consumed, ..header }
    }

    fn guest_sends(&mut self, peer: &mut Peer, length: u32) {
        let free = self.device_buffer - (self.sent - self.device_forwarded);
        let length = length.min(free);
        if length == 0 || !peer.can_send() {
            return;
        }
        let data = pattern(self.sent, length);
        let header = self.told(data_packet(self.port, HOST_PORT, &data));
        peer.queue(&header, &data);
        peer.guest.notify(TX);
        self.sent += length;
    }

    fn tell(&mut self, peer: &mut Peer) {
        if peer.can_send() {
            let header = self.told(packet(Operation::CreditUpdate, self.port, HOST_PORT));
            peer.queue(&header, &[]);
            peer.guest.notify(TX);
        }
    }

    fn guest_gets(&mut self, header: &Header, data: &[u8]) {
        assert!(header.forwarded >= self.device_forwarded && header.forwarded <= self.sent);
        self.device_buffer = header.buffer;
        self.device_forwarded = header.forwarded;
        match Operation::from_code(header.operation).unwrap() {
            Operation::Data => {
                assert!(!data.is_empty());
                assert_eq!(data, pattern(self.got, data.len() as u32));
                self.got += data.len() as u32;
                assert!(self.got <= self.told_limit, "beyond the guest's credit");
            }
            Operation::CreditRequest | Operation::CreditUpdate => {}
            other => panic!("{other:?}"),
        }
    }

    fn host_writes(&mut self, length: u32) {
        match self.stream.write(&pattern(self.written, length)) {
            Ok(count) => self.written += count as u32,
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
        }
    }

    fn host_reads(&mut self, length: u32) {
        let mut data = vec![0; length as usize];
        match self.stream.read(&mut data) {
            Ok(0) => panic!("the stream ended"),
            Ok(count) => {
                assert_eq!(data[..count], pattern(self.arrived, count as u32));
                self.arrived += count as u32;
            }
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
        }
    }

    fn is_done(&self) -> bool {
        self.arrived == self.sent && self.got == self.written
    }
}

fn deliver(peer: &mut Peer, models: &mut [Model; 2], again: bool) {
    for (header, data) in peer.packets(again) {
        let index = usize::from(header.destination_port == models[1].port);
        models[index].guest_gets(&header, &data);
    }
}

fn play(steps: Vec<(bool, Step)>) {
    let mut peer = Peer::new();
    let mut models = [Model::new(&mut peer, 100), Model::new(&mut peer, 200)];
    for (which, step) in steps {
        let model = &mut models[usize::from(which)];
        match step {
            Step::GuestSends(length) => model.guest_sends(&mut peer, length),
            Step::GuestConsumes(length) => model.consumed = model.got.min(model.consumed + length),
            Step::GuestTellsCredit => model.tell(&mut peer),
            Step::GuestShrinksBuffer(buffer) => model.buffer = buffer,
            Step::GuestPostsBuffers => deliver(&mut peer, &mut models, true),
            Step::HostWrites(length) => model.host_writes(length),
            Step::HostReads(length) => model.host_reads(length),
            Step::DeviceTurns(turns) => {
                for _ in 0..turns {
                    peer.guest.turn(0);
                }
            }
        }
        let held = peer.guest.transport.device().table().held_bytes();
        let promised: u32 = models.iter().map(|model| model.device_buffer).sum();
        assert!(held <= promised as usize, "{held} of {promised}");
    }
    // From here on everybody plays along; all must arrive in a bounded number of rounds, and more
    // than the guest has credit for, which it gets without asking.
    let targets = models.each_ref().map(|model| model.sent + 600_000);
    for _ in 0..1000 {
        for (model, target) in models.iter_mut().zip(targets) {
            model.guest_sends(&mut peer, 65_536.min(target - model.sent));
        }
        peer.run();
        deliver(&mut peer, &mut models, true);
        let sent = models.iter().zip(targets).all(|(model, target)| model.sent == target);
        if sent && models.iter().all(Model::is_done) {
            let table = peer.guest.transport.device().table();
            assert_eq!((table.held_bytes(), table.counters().rejected), (0, 0));
            assert!(!peer.guest.turn(0), "the device does not rest");
            return;
        }
        for model in &mut models {
            model.consumed = model.got;
            model.buffer = 65_536;
            model.tell(&mut peer);
            model.host_reads(1 << 20);
        }
    }
    panic!("the device stands still");
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(200)
    })]

    #[test]
    fn credit_holds_in_any_interleaving(steps in steps()) {
        play(steps);
    }
}
