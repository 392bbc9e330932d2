//! A guest's driver and the event loop around one transport, as the tests need them.
//!
//! The driver keeps the specification's rules, event indices included: it notifies only when the
//! device asked for it, so a notification that the device forgets to ask for shows as a test that
//! stands still.

use std::sync::atomic::{Ordering, fence};

use cloister_vmm::devices::virtio::registers::{FEATURE_EVENT_INDEX, FEATURE_VERSION_1};
use cloister_vmm::devices::virtio::{Device, Transport, offset};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// RAM below the gap.
pub(crate) const LOW_BYTES: u64 = 16 << 20;
/// Where RAM goes on.
pub(crate) const HIGH_START: u64 = 4 << 30;
/// RAM above the gap.
pub(crate) const HIGH_BYTES: u64 = 1 << 20;
/// First address for buffers: the rings lie below.
pub(crate) const BUFFERS: u64 = 1 << 20;

pub(crate) const NEXT: u16 = 1;
pub(crate) const WRITE: u16 = 2;
pub(crate) const INDIRECT: u16 = 4;

pub(crate) fn memory() -> GuestMemoryMmap {
    GuestMemoryMmap::from_ranges(&[
        (GuestAddress(0), LOW_BYTES as usize),
        (GuestAddress(HIGH_START), HIGH_BYTES as usize),
    ])
    .unwrap()
}

/// A piece of a buffer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Piece {
    pub(crate) address: u64,
    pub(crate) length: u32,
    pub(crate) writable: bool,
}

pub(crate) fn readable(address: u64, length: u32) -> Piece {
    Piece { address, length, writable: false }
}

pub(crate) fn writable(address: u64, length: u32) -> Piece {
    Piece { address, length, writable: true }
}

/// The driver's side of a split queue.
#[derive(Clone, Debug)]
pub(crate) struct Ring {
    pub(crate) index: u32,
    pub(crate) size: u16,
    pub(crate) descriptors: u64,
    pub(crate) driver_area: u64,
    pub(crate) device_area: u64,
    pub(crate) event_index: bool,
    free: Vec<u16>,
    chains: Vec<Vec<u16>>,
    available: u16,
    notified: u16,
    used: u16,
}

impl Ring {
    pub(crate) fn new(index: u32, size: u16, event_index: bool) -> Self {
        let base = 0x1_0000 * (u64::from(index) + 1);
        Self {
            index,
            size,
            descriptors: base,
            driver_area: base + 0x4000,
            device_area: base + 0x8000,
            event_index,
            free: (0..size).rev().collect(),
            chains: vec![Vec::new(); usize::from(size)],
            available: 0,
            notified: 0,
            used: 0,
        }
    }

    pub(crate) fn free_descriptors(&self) -> usize {
        self.free.len()
    }

    pub(crate) fn in_flight(&self) -> usize {
        usize::from(self.size) - self.free.len()
    }

    pub(crate) fn set_descriptor(
        &self,
        memory: &GuestMemoryMmap,
        index: u16,
        raw: (u64, u32, u16, u16),
    ) {
        let at = self.descriptors + 16 * u64::from(index);
        memory.write_obj(raw.0, GuestAddress(at)).unwrap();
        memory.write_obj(raw.1, GuestAddress(at + 8)).unwrap();
        memory.write_obj(raw.2, GuestAddress(at + 12)).unwrap();
        memory.write_obj(raw.3, GuestAddress(at + 14)).unwrap();
    }

    /// Makes a buffer available; returns its head.
    pub(crate) fn add(&mut self, memory: &GuestMemoryMmap, pieces: &[Piece]) -> u16 {
        let indices: Vec<u16> = pieces.iter().map(|_| self.free.pop().unwrap()).collect();
        for (place, piece) in pieces.iter().enumerate() {
            let next = indices.get(place + 1).copied();
            let flags = if piece.writable { WRITE } else { 0 } | next.map_or(0, |_| NEXT);
            let raw = (piece.address, piece.length, flags, next.unwrap_or(0));
            self.set_descriptor(memory, indices[place], raw);
        }
        let head = indices[0];
        self.chains[usize::from(head)] = indices;
        self.offer(memory, head);
        head
    }

    /// Puts a head into the available ring, whatever it is.
    pub(crate) fn offer(&mut self, memory: &GuestMemoryMmap, head: u16) {
        let slot = u64::from(self.available % self.size);
        memory.write_obj(head, GuestAddress(self.driver_area + 4 + 2 * slot)).unwrap();
        self.set_available(memory, self.available.wrapping_add(1));
    }

    pub(crate) fn set_available(&mut self, memory: &GuestMemoryMmap, index: u16) {
        self.available = index;
        memory.store(index, GuestAddress(self.driver_area + 2), Ordering::Release).unwrap();
    }

    /// Whether the device wants to be notified of what was added since the last call.
    pub(crate) fn must_notify(&mut self, memory: &GuestMemoryMmap) -> bool {
        fence(Ordering::SeqCst);
        let (old, new) = (self.notified, self.available);
        self.notified = new;
        if old == new {
            return false;
        }
        if self.event_index {
            let at = self.device_area + 4 + 8 * u64::from(self.size);
            let event: u16 = memory.load(GuestAddress(at), Ordering::Relaxed).unwrap();
            return new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old);
        }
        let flags: u16 = memory.load(GuestAddress(self.device_area), Ordering::Relaxed).unwrap();
        flags & 1 == 0
    }

    /// Takes a completed buffer: head and length.
    pub(crate) fn take_used(&mut self, memory: &GuestMemoryMmap) -> Option<(u16, u32)> {
        let index: u16 =
            memory.load(GuestAddress(self.device_area + 2), Ordering::Acquire).unwrap();
        if index == self.used {
            return None;
        }
        let at = self.device_area + 4 + 8 * u64::from(self.used % self.size);
        let head: u32 = memory.read_obj(GuestAddress(at)).unwrap();
        let length: u32 = memory.read_obj(GuestAddress(at + 4)).unwrap();
        let head = u16::try_from(head).unwrap();
        self.used = self.used.wrapping_add(1);
        let chain = std::mem::take(&mut self.chains[usize::from(head)]);
        self.free.extend(chain);
        Some((head, length))
    }

    /// Asks for an interrupt after the next completed buffer.
    pub(crate) fn ask_interrupt(&self, memory: &GuestMemoryMmap) {
        let at = self.driver_area + 4 + 2 * u64::from(self.size);
        memory.store(self.used, GuestAddress(at), Ordering::Relaxed).unwrap();
        fence(Ordering::SeqCst);
    }
}

/// One device with its driver and its event loop.
pub(crate) struct Guest<D: Device> {
    pub(crate) transport: Transport<D>,
    pub(crate) memory: GuestMemoryMmap,
    pub(crate) interrupt: EventFd,
    pub(crate) rings: Vec<Ring>,
    loop_: Epoll,
    sizes: Vec<u16>,
    /// How often the event loop had something to do.
    pub(crate) turns: u64,
}

impl<D: Device> Guest<D> {
    pub(crate) fn new(device: D) -> Self {
        Self::over(device, memory(), Vec::new())
    }

    /// The same memory with another, untouched device.
    pub(crate) fn forked(&self, device: D) -> Self {
        Self::over(device, self.memory.clone(), self.rings.clone())
    }

    /// A device for which its memory has to be there before it.
    pub(crate) fn in_memory(device: D, memory: GuestMemoryMmap) -> Self {
        Self::over(device, memory, Vec::new())
    }

    fn over(device: D, memory: GuestMemoryMmap, rings: Vec<Ring>) -> Self {
        let interrupt = EventFd::new(EFD_NONBLOCK).unwrap();
        let sizes = device.facts().queue_sizes.to_vec();
        let theirs = interrupt.try_clone().unwrap();
        let transport = Transport::new(device, memory.clone(), theirs).unwrap();
        let loop_ = Epoll::new().unwrap();
        for (descriptor, token) in transport.event_sources() {
            let event = EpollEvent::new(EventSet::IN, u64::from(token));
            loop_.ctl(ControlOperation::Add, descriptor, event).unwrap();
        }
        Self { transport, memory, interrupt, rings, loop_, sizes, turns: 0 }
    }

    /// A guest whose driver is up.
    pub(crate) fn started(device: D) -> Self {
        let mut guest = Self::new(device);
        guest.start(true);
        guest
    }

    pub(crate) fn get(&mut self, at: u64) -> u32 {
        let mut data = [0xaa; 4];
        self.transport.read(at, &mut data);
        u32::from_le_bytes(data)
    }

    pub(crate) fn set(&mut self, at: u64, value: u32) {
        self.transport.write(at, &value.to_le_bytes());
    }

    /// Resets and sets everything up as Linux does.
    pub(crate) fn start(&mut self, event_index: bool) {
        self.set(offset::STATUS, 0);
        assert_eq!(self.get(offset::STATUS), 0);
        self.set(offset::STATUS, 1);
        self.set(offset::STATUS, 3);
        let wanted = FEATURE_VERSION_1 | if event_index { FEATURE_EVENT_INDEX } else { 0 };
        for half in [0, 1] {
            self.set(offset::DEVICE_FEATURES_SEL, half);
            let offered = self.get(offset::DEVICE_FEATURES);
            let wanted = (wanted >> (32 * half)) as u32;
            assert_eq!(offered & wanted, wanted);
            self.set(offset::DRIVER_FEATURES_SEL, half);
            self.set(offset::DRIVER_FEATURES, wanted);
        }
        self.set(offset::STATUS, 11);
        assert_eq!(self.get(offset::STATUS), 11);
        self.rings =
            (0_u32..).zip(&self.sizes).map(|(i, s)| Ring::new(i, *s, event_index)).collect();
        for index in 0..self.rings.len() {
            self.configure(index);
        }
        self.set(offset::STATUS, 15);
    }

    fn configure(&mut self, index: usize) {
        let ring = &self.rings[index];
        let (number, size) = (ring.index, ring.size);
        let areas = [
            (offset::QUEUE_DESC_LOW, ring.descriptors),
            (offset::QUEUE_DRIVER_LOW, ring.driver_area),
            (offset::QUEUE_DEVICE_LOW, ring.device_area),
        ];
        // What an earlier life of the driver left in memory.
        for (_, start) in areas {
            self.memory.write_slice(&[0; 0x4000], GuestAddress(start)).unwrap();
        }
        self.set(offset::QUEUE_SEL, number);
        assert_eq!(self.get(offset::QUEUE_READY), 0);
        assert_eq!(self.get(offset::QUEUE_NUM_MAX), u32::from(size));
        self.set(offset::QUEUE_NUM, u32::from(size));
        for (at, start) in areas {
            self.set(at, start as u32);
            self.set(at + 4, (start >> 32) as u32);
        }
        self.set(offset::QUEUE_READY, 1);
        assert_eq!(self.get(offset::QUEUE_READY), 1);
    }

    /// Notifies the device of what was added to a queue, if it wants to be.
    pub(crate) fn notify(&mut self, queue: usize) {
        if self.rings[queue].must_notify(&self.memory) {
            match self.transport.queue_events().get(queue) {
                Some(event) => event.write(1).unwrap(),
                None => self.set(offset::QUEUE_NOTIFY, u32::try_from(queue).unwrap()),
            }
        }
    }

    /// Runs the event loop until nothing is ready. More than `limit` turns are a spin.
    pub(crate) fn run(&mut self, limit: usize) {
        for _ in 0..limit {
            if !self.turn(0) {
                return;
            }
        }
        panic!("the device has no end of work");
    }

    /// Waits up to `timeout_ms` and handles what is ready. `false`: nothing was.
    pub(crate) fn turn(&mut self, timeout_ms: i32) -> bool {
        let mut events = [EpollEvent::default(); 8];
        let count = self.loop_.wait(timeout_ms, &mut events).unwrap();
        for event in &events[..count] {
            self.turns += 1;
            self.transport.process(u32::try_from(event.data()).unwrap());
        }
        count > 0
    }

    /// Whether the device interrupted since the last call, and why.
    pub(crate) fn take_interrupt(&mut self) -> Option<u32> {
        self.interrupt.read().ok()?;
        let status = self.get(offset::INTERRUPT_STATUS);
        self.set(offset::INTERRUPT_ACK, status);
        Some(status)
    }
}
