//! A guest that sends any vsock packets while the host connects, accepts, writes and closes: no
//! panic, bounded buffers, and no more bytes to the guest than it gave credit for.
#![no_main]

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use cloister_vmm::control::{Event, GUEST_CID, HOST_CID, Stats};
use cloister_vmm::devices::virtio::vsock::packet::{HEADER_SIZE, Header};
use cloister_vmm::devices::virtio::{Transport, Vsock, offset};
use libfuzzer_sys::fuzz_target;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

const MEMORY_BYTES: usize = 1 << 20;
const RING_SIZE: u32 = 64;
/// Rings of queue `n` lie at `RINGS * (n + 1)`: descriptors, available, used.
const RINGS: u64 = 0x1_0000;
const RX_BUFFERS: u64 = 0x8_0000;
const TX_BUFFER: u64 = 0x5_0000;
const RX_BYTES: u32 = 4096;
const MAX_STEPS: usize = 256;
/// Most bytes that the device may hold for one connection (its advertised buffer) times all that
/// one input can open.
const MAX_HELD: usize = MAX_STEPS * (256 << 10);

struct Guest {
    transport: Transport<Vsock>,
    memory: GuestMemoryMmap,
    available: [u16; 2],
    streams: Vec<UnixStream>,
}

fuzz_target!(|input: &[u8]| {
    let mut guest = Guest::new();
    for step in input.chunks(16).take(MAX_STEPS) {
        guest.step(step);
        guest.turn();
    }
    assert!(guest.transport.device().table().held_bytes() <= MAX_HELD);
    let mut stats = Stats::default();
    guest.transport.add_stats(&mut stats);
    assert!(usize::try_from(stats.connections).expect("a count") <= MAX_STEPS);
});

impl Guest {
    fn new() -> Self {
        let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), MEMORY_BYTES)])
            .expect("a small mapping");
        let interrupt = EventFd::new(EFD_NONBLOCK).expect("a descriptor");
        let device = Vsock::new().expect("a device");
        let transport = Transport::new(device, memory.clone(), interrupt).expect("descriptors");
        let mut guest = Self { transport, memory, available: [0; 2], streams: Vec::new() };
        guest.bring_up();
        for slot in 0..u64::from(RING_SIZE) {
            guest.describe(0, slot, RX_BUFFERS + slot * u64::from(RX_BYTES), RX_BYTES, 2);
            guest.offer(0, u16::try_from(slot).expect("a small number"));
        }
        guest
    }

    fn bring_up(&mut self) {
        for status in [0, 1, 3] {
            self.write(offset::STATUS, status);
        }
        self.write(offset::DRIVER_FEATURES_SEL, 1);
        self.write(offset::DRIVER_FEATURES, 1);
        self.write(offset::STATUS, 11);
        for queue in 0..3 {
            let base = u32::try_from(RINGS).expect("a low address") * (queue + 1);
            self.write(offset::QUEUE_SEL, queue);
            // The event queue, which nothing is sent on, is smaller.
            self.write(offset::QUEUE_NUM, if queue == 2 { 2 } else { RING_SIZE });
            self.write(offset::QUEUE_DESC_LOW, base);
            self.write(offset::QUEUE_DRIVER_LOW, base + 0x4000);
            self.write(offset::QUEUE_DEVICE_LOW, base + 0x8000);
            self.write(offset::QUEUE_READY, 1);
        }
        self.write(offset::STATUS, 15);
        let mut status = [0; 4];
        self.transport.read(offset::STATUS, &mut status);
        assert_eq!(status, [15, 0, 0, 0], "the device must be up, else nothing is fuzzed");
    }

    fn write(&mut self, register: u64, value: u32) {
        self.transport.write(register, &value.to_le_bytes());
    }

    fn describe(&self, queue: u64, slot: u64, address: u64, length: u32, flags: u16) {
        let mut raw = Vec::with_capacity(16);
        raw.extend(address.to_le_bytes());
        raw.extend(length.to_le_bytes());
        raw.extend(flags.to_le_bytes());
        raw.extend(0u16.to_le_bytes());
        let at = GuestAddress(RINGS * (queue + 1) + 16 * slot);
        self.memory.write_slice(&raw, at).expect("inside memory");
    }

    fn offer(&mut self, queue: usize, head: u16) {
        let base = RINGS * (queue as u64 + 1) + 0x4000;
        let index = self.available[queue];
        let slot = u64::from(index) % u64::from(RING_SIZE);
        self.memory.write_obj(head, GuestAddress(base + 4 + 2 * slot)).expect("inside memory");
        self.available[queue] = index.wrapping_add(1);
        let next = self.available[queue];
        self.memory.write_obj(next, GuestAddress(base + 2)).expect("inside memory");
        self.write(offset::QUEUE_NOTIFY, u32::try_from(queue).expect("a queue"));
    }

    /// One act of the guest or the host, from up to 16 bytes.
    fn step(&mut self, bytes: &[u8]) {
        let mut raw = [0; 16];
        raw[..bytes.len()].copy_from_slice(bytes);
        let [act, pick, low, high, rest @ ..] = raw;
        match act % 8 {
            0..=3 => self.packet(pick, u16::from_le_bytes([low, high]), &rest),
            4 => {
                if let Some((theirs, ours)) = self.pair() {
                    self.streams.push(ours);
                    self.transport.connect(u32::from(pick), u32::from(low) % 4, theirs);
                }
            }
            5 => {
                if let Some(stream) = self.streams.get_mut(usize::from(pick) % 4) {
                    stream.write_all(&rest).ok();
                }
            }
            6 => {
                if usize::from(pick) < self.streams.len() {
                    self.streams.swap_remove(usize::from(pick));
                }
            }
            _ => {
                let mut buffer = [0; 4096];
                for stream in &mut self.streams {
                    stream.read(&mut buffer).ok();
                }
            }
        }
    }

    /// A packet from the guest: mostly well-formed, since a random header is refused at once.
    fn packet(&mut self, kind: u8, length: u16, rest: &[u8; 12]) {
        let mut raw = [0; HEADER_SIZE];
        let length = u32::from(length % 5000);
        let [operation, guest_port, host_port, flags, a, b, c, d, wild, ..] = *rest;
        raw[..8].copy_from_slice(&GUEST_CID.to_le_bytes());
        raw[8..16].copy_from_slice(&HOST_CID.to_le_bytes());
        raw[16..20].copy_from_slice(&u32::from(guest_port % 4).to_le_bytes());
        raw[20..24].copy_from_slice(&u32::from(host_port % 4).to_le_bytes());
        raw[24..28].copy_from_slice(&length.to_le_bytes());
        raw[28] = 1;
        raw[30] = operation % 9;
        raw[32] = flags % 4;
        raw[36..40].copy_from_slice(&[a, b, c, 0]);
        raw[40..44].copy_from_slice(&[d, wild, 0, 0]);
        if kind & 0xe0 == 0xe0 {
            // Now and then one field is anything.
            raw[usize::from(wild) % HEADER_SIZE] ^= a;
        }
        let _checked = Header::parse(&raw);
        self.memory.write_slice(&raw, GuestAddress(TX_BUFFER)).expect("inside memory");
        let total = u32::try_from(HEADER_SIZE).expect("44") + length;
        self.describe(1, 0, TX_BUFFER, total, 0);
        self.offer(1, 0);
    }

    /// Lets the device work and the host answer.
    fn turn(&mut self) {
        for (_, token) in self.transport.event_sources() {
            self.transport.process(token);
        }
        for event in self.transport.take_events() {
            let Event::Incoming { id, port } = event else { continue };
            match self.pair() {
                Some((theirs, ours)) if port % 4 != 3 => {
                    self.streams.push(ours);
                    self.transport.accept(id, theirs);
                }
                _ => self.transport.refuse(id),
            }
        }
    }

    fn pair(&self) -> Option<(OwnedFd, UnixStream)> {
        let (theirs, ours) = UnixStream::pair().ok()?;
        ours.set_nonblocking(true).ok()?;
        Some((theirs.into(), ours))
    }
}
