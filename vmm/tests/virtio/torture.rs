//! A guest that does everything wrong, with fixed seeds: nothing panics, hangs or spins, and after a
//! reset the device works as if nothing had been.

use std::time::{Duration, Instant};

use cloister_vmm::devices::virtio::vsock::packet::{HEADER_SIZE, Header};
use cloister_vmm::devices::virtio::{Device, MmioDevice, Rng, Vsock, offset};
use vm_memory::{Bytes, GuestAddress};

use crate::driver::{BUFFERS, Guest, HIGH_BYTES, HIGH_START, LOW_BYTES, NEXT, WRITE, writable};
use crate::peer::{Peer, data_packet, packet, pair, read_all};

/// A small generator of numbers that are random enough and the same in each run (xorshift64*).
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }

    /// An address that is good, at an edge, in the gap, or absurd.
    fn address(&mut self) -> u64 {
        let near = self.below(64);
        match self.below(10) {
            0..=4 => BUFFERS + self.below(1 << 20),
            5 => LOW_BYTES - near,
            6 => HIGH_START - 32 + near,
            7 => HIGH_START + HIGH_BYTES - near,
            8 => 0xd000_0000 + near,
            _ => self.pick(&[0, 1, u64::MAX, u64::MAX - near, 1 << 63, 0x1_0000 + near * 16]),
        }
    }

    fn length(&mut self) -> u32 {
        let exact = self.pick(&[0, 1, 43, 44, 45, 100, 4096, 65_580, 1 << 22, u32::MAX]);
        if self.chance(50) { exact } else { self.below(8192) as u32 }
    }
}

/// Writes to registers, in any order and width; sometimes on the right way.
fn touch_registers<D: Device>(guest: &mut Guest<D>, random: &mut Random) {
    for _ in 0..random.below(20) {
        let at = match random.below(4) {
            0 => random.below(0x200),
            1 => random.next(),
            _ => random.below(0x40) * 4 + random.below(2) * 0x44,
        };
        let width = if random.chance(80) { 4 } else { random.below(17) as usize };
        let small = random.below(20);
        let value = random.pick(&[small, 0, 1, 3, 11, 15, 128, 79, u64::MAX]);
        let mut data = [0; 16];
        data[..8].copy_from_slice(&value.to_le_bytes());
        let _sent = MmioDevice::write(&mut guest.transport, at, &data[..width]).run();
        MmioDevice::read(&mut guest.transport, at, &mut data[..width]);
    }
}

/// Descriptors, heads and indices that may be anything.
fn fill_ring<D: Device>(guest: &mut Guest<D>, random: &mut Random) {
    let index = random.below(guest.rings.len() as u64) as usize;
    let size = u64::from(guest.rings[index].size);
    for _ in 0..random.below(16) {
        let slot = random.below(size) as u16;
        let flags = random.pick(&[0, WRITE, NEXT, NEXT | WRITE, 4, 0xffff, random_flags(slot)]);
        let next = if random.chance(90) { random.below(size) } else { random.next() } as u16;
        let raw = (random.address(), random.length(), flags, next);
        let memory = guest.memory.clone();
        guest.rings[index].set_descriptor(&memory, slot, raw);
    }
    let memory = guest.memory.clone();
    let ring = &mut guest.rings[index];
    for _ in 0..random.below(6) {
        let head = if random.chance(95) { random.below(size) } else { random.next() } as u16;
        ring.offer(&memory, head);
    }
    if random.chance(5) {
        ring.set_available(&memory, random.next() as u16);
    }
    // Whatever the driver's and the device's flags and event words hold.
    for area in [ring.driver_area, ring.device_area] {
        if random.chance(5) {
            let at = GuestAddress(area + random.below(8));
            memory.write_obj(random.next() as u8, at).unwrap();
        }
    }
    if random.chance(80) {
        guest.transport.queue_events()[index].write(1).unwrap();
    }
}

fn random_flags(slot: u16) -> u16 {
    if slot.is_multiple_of(2) { NEXT } else { WRITE }
}

/// Puts headers that are nearly right where the descriptors point.
fn write_headers<D: Device>(guest: &Guest<D>, random: &mut Random) {
    for _ in 0..8 {
        let header = Header {
            source_cid: random.pick(&[3, 3, 3, 3, 2, 0, u64::MAX]),
            destination_cid: random.pick(&[2, 2, 2, 2, 3, u64::MAX]),
            source_port: random.below(4) as u32,
            destination_port: random.pick(&[1, 1, 2, 1 << 30]),
            length: random.length(),
            socket_type: random.pick(&[1, 1, 1, 1, 2, 0xffff]),
            operation: random.below(9) as u16,
            flags: random.below(5) as u32,
            buffer: random.pick(&[0, 1, 4096, 1 << 18, u32::MAX]),
            forwarded: random.pick(&[0, 0, 1, 1 << 16, u32::MAX]),
        };
        let at = GuestAddress(BUFFERS + random.below((1 << 20) - HEADER_SIZE as u64));
        guest.memory.write_slice(&header.to_bytes(), at).unwrap();
    }
}

/// Runs the event loop: no turn may be slow, and when the guest rests the device rests soon.
fn settle<D: Device>(guest: &mut Guest<D>) {
    let start = Instant::now();
    guest.run(2000);
    assert!(start.elapsed() < Duration::from_secs(20));
}

fn torture_rng(seed: u64) {
    let mut random = Random::new(seed);
    let mut guest = Guest::started(Rng::new().unwrap());
    for _ in 0..40 {
        if random.chance(20) {
            touch_registers(&mut guest, &mut random);
        }
        fill_ring(&mut guest, &mut random);
        settle(&mut guest);
        if random.chance(20) {
            guest.start(random.chance(50));
        }
    }
    guest.start(true);
    settle(&mut guest);
    guest.rings[0].add(&guest.memory, &[writable(BUFFERS, 64)]);
    guest.notify(0);
    // The rate may be used up.
    for _ in 0..100 {
        if guest.rings[0].take_used(&guest.memory).is_some() {
            return;
        }
        assert!(guest.turn(2000), "stands still");
    }
    panic!("seed {seed}: the device does not work after a reset");
}

fn torture_vsock(seed: u64) {
    let mut random = Random::new(seed);
    let mut guest = Guest::started(Vsock::new().unwrap());
    let mut streams = Vec::new();
    for id in 0..60 {
        if random.chance(10) {
            touch_registers(&mut guest, &mut random);
        }
        write_headers(&guest, &mut random);
        fill_ring(&mut guest, &mut random);
        if random.chance(30) {
            let (theirs, ours) = pair();
            match random.below(3) {
                0 => guest.transport.connect(id, random.below(4) as u32, theirs),
                1 => guest.transport.accept(random.below(20) as u32, theirs),
                _ => guest.transport.refuse(random.below(20) as u32),
            }
            streams.push(ours);
        }
        settle(&mut guest);
        for event in guest.transport.take_events() {
            if let cloister_vmm::control::Event::Incoming { id, .. } = event
                && random.chance(80)
            {
                let (theirs, ours) = pair();
                guest.transport.accept(id, theirs);
                streams.push(ours);
            }
        }
        if random.chance(20) && !streams.is_empty() {
            let _gone = streams.swap_remove(random.below(streams.len() as u64) as usize);
        }
        for stream in &mut streams {
            if random.chance(30) {
                drop(std::io::Write::write(stream, &[1; 5000]));
                read_some(stream);
            }
        }
        settle(&mut guest);
        let table = guest.transport.device().table();
        assert!(table.held_bytes() <= table.len() << 18);
        if random.chance(15) {
            guest.start(random.chance(80));
        }
    }
    works_after_reset(guest, seed);
}

fn read_some(stream: &mut std::os::unix::net::UnixStream) {
    let mut data = [0; 4096];
    drop(std::io::Read::read(stream, &mut data));
}

fn works_after_reset(mut guest: Guest<Vsock>, seed: u64) {
    guest.start(true);
    settle(&mut guest);
    guest.transport.take_events();
    assert_eq!(guest.get(offset::STATUS), 15, "seed {seed}");
    let mut peer = Peer::over(guest);
    peer.post(128);
    let operation = cloister_vmm::devices::virtio::vsock::packet::Operation::Request;
    peer.send(&packet(operation, 60_000, 60_001), &[]);
    let events = peer.events();
    let id = events.iter().find_map(|event| match event {
        cloister_vmm::control::Event::Incoming { id, port: 60_001 } => Some(*id),
        _ => None,
    });
    let (theirs, mut stream) = pair();
    peer.guest.transport.accept(id.unwrap(), theirs);
    peer.run();
    peer.send(&data_packet(60_000, 60_001, b"alive"), b"alive");
    assert_eq!(read_all(&mut stream).0, b"alive", "seed {seed}");
}

/// Cases for each device; more with `TORTURE_CASES`.
fn cases() -> u64 {
    std::env::var("TORTURE_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(400)
}

#[test]
fn the_entropy_device_survives_anything() {
    for seed in 0..cases() {
        torture_rng(seed);
    }
}

#[test]
fn the_socket_device_survives_anything() {
    for seed in 0..cases() {
        torture_vsock(seed);
    }
}
