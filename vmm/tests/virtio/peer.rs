//! A guest's vsock driver: packets in and out of the socket device's queues.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use cloister_vmm::control::{Event, GUEST_CID, HOST_CID};
use cloister_vmm::devices::virtio::Vsock;
use cloister_vmm::devices::virtio::vsock::packet::{HEADER_SIZE, Header, Operation, TYPE_STREAM};
use vm_memory::{Bytes, GuestAddress};

use crate::driver::{BUFFERS, Guest, readable, writable};

pub(crate) const RX: usize = 0;
pub(crate) const TX: usize = 1;
/// What a Linux guest posts.
pub(crate) const RX_BUFFER: u32 = 4096;
/// Where the transmit packets lie: after the receive buffers.
const TX_BUFFERS: u64 = BUFFERS + 128 * RX_BUFFER as u64;
/// Room for a transmit packet: header page and data.
const TX_STRIDE: u64 = 0x1000 + (64 << 10);

/// A packet that the guest got.
pub(crate) type Packet = (Header, Vec<u8>);

/// The driver of one socket device.
pub(crate) struct Peer {
    pub(crate) guest: Guest<Vsock>,
    /// Of each receive head: its buffer's address.
    rx: Vec<u64>,
    tx_slots: Vec<u64>,
    tx: Vec<Option<u64>>,
}

impl Peer {
    /// A guest that is up and has posted all its receive buffers.
    pub(crate) fn new() -> Self {
        let mut peer = Self::without_buffers();
        peer.post(128);
        peer
    }

    /// A guest that is up and has posted nothing.
    pub(crate) fn without_buffers() -> Self {
        let mut guest = Guest::started(Vsock::new().unwrap());
        guest.run(100);
        Self::over(guest)
    }

    pub(crate) fn over(guest: Guest<Vsock>) -> Self {
        let tx_slots = (0..64).map(|slot| TX_BUFFERS + slot * TX_STRIDE).collect();
        Self { guest, rx: vec![0; 128], tx_slots, tx: vec![None; 128] }
    }

    /// Posts receive buffers that were never posted.
    pub(crate) fn post(&mut self, count: u64) {
        for _ in 0..count {
            let address = BUFFERS + self.guest.rings[RX].in_flight() as u64 * u64::from(RX_BUFFER);
            self.post_at(address);
        }
        self.guest.notify(RX);
    }

    fn post_at(&mut self, address: u64) {
        let pieces = [writable(address, RX_BUFFER)];
        let head = self.guest.rings[RX].add(&self.guest.memory, &pieces);
        self.rx[usize::from(head)] = address;
    }

    /// Packets that the guest got; the buffers are posted again if `again`.
    pub(crate) fn packets(&mut self, again: bool) -> Vec<Packet> {
        let mut packets = Vec::new();
        while let Some((head, length)) = self.guest.rings[RX].take_used(&self.guest.memory) {
            let address = self.rx[usize::from(head)];
            let mut raw = [0; HEADER_SIZE];
            self.guest.memory.read_slice(&mut raw, GuestAddress(address)).unwrap();
            let header = Header::parse(&raw);
            assert_eq!(length, header.length + 44, "{header:?}");
            assert!(length <= RX_BUFFER);
            let mut data = vec![0; header.length as usize];
            self.guest.memory.read_slice(&mut data, GuestAddress(address + 44)).unwrap();
            packets.push((header, data));
            if again {
                self.post_at(address);
            }
        }
        self.guest.notify(RX);
        packets
    }

    /// Whether a packet can be sent now.
    pub(crate) fn can_send(&mut self) -> bool {
        while let Some((head, _)) = self.guest.rings[TX].take_used(&self.guest.memory) {
            self.tx_slots.extend(self.tx[usize::from(head)].take());
        }
        !self.tx_slots.is_empty() && self.guest.rings[TX].free_descriptors() >= 2
    }

    /// Queues a packet; [`Guest::notify`] tells the device.
    pub(crate) fn queue(&mut self, header: &Header, data: &[u8]) {
        assert!(self.can_send());
        let slot = self.tx_slots.pop().unwrap();
        let memory = &self.guest.memory;
        memory.write_slice(&header.to_bytes(), GuestAddress(slot)).unwrap();
        memory.write_slice(data, GuestAddress(slot + 0x1000)).unwrap();
        let mut pieces = vec![readable(slot, 44)];
        if !data.is_empty() {
            pieces.push(readable(slot + 0x1000, data.len() as u32));
        }
        let head = self.guest.rings[TX].add(&self.guest.memory, &pieces);
        self.tx[usize::from(head)] = Some(slot);
    }

    /// Sends a packet and lets the device work.
    pub(crate) fn send(&mut self, header: &Header, data: &[u8]) {
        self.queue(header, data);
        self.guest.notify(TX);
        self.run();
    }

    /// Lets the device work until it has nothing to do.
    pub(crate) fn run(&mut self) {
        self.guest.run(1000);
    }

    pub(crate) fn events(&mut self) -> Vec<Event> {
        self.guest.transport.take_events()
    }

    /// The guest connects from `guest_port` to `host_port` and the host lets it in.
    pub(crate) fn connect_to_host(&mut self, guest_port: u32, host_port: u32) -> UnixStream {
        self.send(&packet(Operation::Request, guest_port, host_port), &[]);
        let [Event::Incoming { id, port }] = self.events()[..] else { panic!("no event") };
        assert_eq!(port, host_port);
        let (theirs, ours) = pair();
        self.guest.transport.accept(id, theirs);
        self.run();
        let packets = self.packets(true);
        assert_eq!(operations(&packets), [Operation::Response]);
        ours
    }

    /// The host connects to `port` and the guest lets it in. Returns the host's port, too.
    pub(crate) fn connect_to_guest(&mut self, id: u32, port: u32) -> (UnixStream, u32) {
        let (theirs, ours) = pair();
        self.guest.transport.connect(id, port, theirs);
        self.run();
        let packets = self.packets(true);
        assert_eq!(operations(&packets), [Operation::Request]);
        let host_port = packets[0].0.source_port;
        self.send(&packet(Operation::Response, port, host_port), &[]);
        assert_eq!(self.events(), [Event::Connected { id }]);
        (ours, host_port)
    }
}

/// A pair of stream sockets: the device's end and the host's, which does not wait.
pub(crate) fn pair() -> (OwnedFd, UnixStream) {
    let (theirs, ours) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    (theirs.into(), ours)
}

/// A header from the guest with a credit of 256 KiB of which nothing was used.
pub(crate) fn packet(operation: Operation, guest_port: u32, host_port: u32) -> Header {
    Header {
        source_cid: GUEST_CID,
        destination_cid: HOST_CID,
        source_port: guest_port,
        destination_port: host_port,
        length: 0,
        socket_type: TYPE_STREAM,
        operation: operation.code(),
        flags: 0,
        buffer: 256 << 10,
        forwarded: 0,
    }
}

pub(crate) fn data_packet(guest_port: u32, host_port: u32, data: &[u8]) -> Header {
    Header { length: data.len() as u32, ..packet(Operation::Data, guest_port, host_port) }
}

pub(crate) fn operations(packets: &[Packet]) -> Vec<Operation> {
    packets.iter().map(|(header, _)| Operation::from_code(header.operation).unwrap()).collect()
}

/// Reads what is there. `None` at the end: the stream ended.
pub(crate) fn read_all(stream: &mut UnixStream) -> (Vec<u8>, bool) {
    let mut data = Vec::new();
    let mut part = vec![0; 64 << 10];
    loop {
        match io::Read::read(stream, &mut part) {
            Ok(0) => return (data, true),
            Ok(count) => data.extend_from_slice(&part[..count]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return (data, false),
            Err(error) => panic!("{error}"),
        }
    }
}
