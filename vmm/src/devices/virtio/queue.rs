//! A split virtqueue of which every index and descriptor is checked before use.
//!
//! The ring arithmetic is the virtio-queue crate's. Added here is a walk that reports a bad chain as
//! the guest's fault instead of cutting it short. A chain's
//! descriptors are copied once; later changes by the guest have no effect on it. A [`Chain`] can't
//! be copied, so it is completed at most once.

use std::mem;
use std::ops::Range;
use std::sync::atomic::{Ordering, fence};

use virtio_bindings::bindings::virtio_ring::{VRING_AVAIL_F_NO_INTERRUPT, VRING_DESC_F_INDIRECT};
use virtio_queue::desc::split::Descriptor;
use virtio_queue::{QueueOwnedT, QueueT};
use vm_memory::{
    Address, Bytes, GuestAddress, GuestMemory, GuestMemoryMmap, GuestMemoryRegion,
    GuestRegionMmap as Region, MemoryRegionAddress, VolatileMemory as _, VolatileSlice,
};

use super::fault::QueueFault;

/// Most bytes in one chain of most devices: far above what any driver of a device here posts (64 KiB and a header),
/// and far below the 2^32 at which sums of descriptor lengths wrap (VIRTIO 1.2, 2.7.5.2).
pub const MAX_CHAIN_BYTES: u32 = 4 << 20;

/// A checked piece of guest memory: lies wholly in RAM, is not empty. Of one descriptor, or of several
/// that follow each other in the chain and in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    address: GuestAddress,
    length: u32,
}

impl Segment {
    /// Its guest addresses.
    #[must_use]
    pub fn range(&self) -> Range<u64> {
        self.address.raw_value()..self.end()
    }

    fn end(&self) -> u64 {
        self.address.raw_value().saturating_add(u64::from(self.length))
    }
}

/// A checked descriptor chain that the device holds until it completes it.
#[derive(Debug)]
#[must_use]
pub struct Chain {
    head: u16,
    segments: Vec<Segment>,
    /// How many of the segments, from the front, are device-readable.
    readable: usize,
}

impl Chain {
    /// What the device may read.
    #[must_use]
    pub fn readable(&self) -> &[Segment] {
        self.segments.get(..self.readable).unwrap_or_default()
    }

    /// What the device may write.
    #[must_use]
    pub fn writable(&self) -> &[Segment] {
        self.segments.get(self.readable..).unwrap_or_default()
    }

    /// Bytes of these segments together; no more than a chain of the device may have.
    #[must_use]
    pub fn bytes(segments: &[Segment]) -> usize {
        segments.iter().map(|segment| segment.length as usize).sum()
    }
}

/// A running queue: immutable configuration, checked chains.
#[derive(Debug)]
pub struct Queue {
    ring: virtio_queue::Queue,
    memory: GuestMemoryMmap,
    max_chain_bytes: u32,
    /// The last completed chain's storage, for the next one.
    spare: Vec<Segment>,
    used_unseen: bool,
}

impl Queue {
    /// A queue on a ring that [`super::queue_config::QueueConfig::validate`] checked.
    pub(super) fn new(
        ring: virtio_queue::Queue,
        memory: GuestMemoryMmap,
        max_chain_bytes: u32,
    ) -> Self {
        Self { ring, memory, max_chain_bytes, spare: Vec::new(), used_unseen: false }
    }

    /// The guest memory in which the queue lies.
    #[must_use]
    pub fn memory(&self) -> &GuestMemoryMmap {
        &self.memory
    }

    /// The next entries of the available and the used ring.
    #[must_use]
    pub fn position(&self) -> (u16, u16) {
        (self.ring.next_avail(), self.ring.next_used())
    }

    /// Goes on where another queue on these rings stood. What lies there is checked as ever.
    pub(super) fn go_on_at(&mut self, next_available: u16, next_used: u16) {
        self.ring.set_next_avail(next_available);
        self.ring.set_next_used(next_used);
    }

    /// How far the driver has come with making chains available.
    ///
    /// # Errors
    /// The ring could not be read: never with a validated queue.
    pub fn available_index(&self) -> Result<u16, QueueFault> {
        let index = self.ring.avail_idx(&self.memory, Ordering::Acquire);
        index.map(|index| index.0).map_err(|_| self.ring_fault())
    }

    /// Takes the next chain that the driver made available.
    ///
    /// # Errors
    /// The driver's fault; the queue must not be used after it.
    pub fn pop(&mut self) -> Result<Option<Chain>, QueueFault> {
        let memory = &self.memory;
        let mut available = self.ring.iter(memory).map_err(|_| QueueFault::AvailableIndex)?;
        let Some(head) = available.next().map(|chain| chain.head_index()) else {
            return Ok(None);
        };
        let mut segments = mem::take(&mut self.spare);
        segments.clear();
        let readable = self.walk(head, &mut segments)?;
        Ok(Some(Chain { head, segments, readable }))
    }

    /// Puts back one of the chains that were popped last, in any order. It will be read and checked
    /// anew.
    pub fn unpop(&mut self, chain: Chain) {
        self.spare = chain.segments;
        self.ring.go_to_previous_position();
    }

    /// Completes a chain of which the device wrote the first `written` bytes.
    ///
    /// # Errors
    /// The driver's fault; the queue must not be used after it.
    pub fn push(&mut self, chain: Chain, written: u32) -> Result<(), QueueFault> {
        let index = chain.head;
        self.spare = chain.segments;
        self.used_unseen = true;
        self.ring
            .add_used(&self.memory, index, written)
            .map_err(|_| QueueFault::DescriptorIndex { index })
    }

    /// Whether the driver wants an interrupt for what was completed since the last call.
    ///
    /// # Errors
    /// The rings could not be read: never with a validated queue.
    pub fn wants_interrupt(&mut self) -> Result<bool, QueueFault> {
        if !mem::take(&mut self.used_unseen) {
            return Ok(false);
        }
        if self.ring.event_idx_enabled() {
            return self.ring.needs_notification(&self.memory).map_err(|_| self.ring_fault());
        }
        // The used index must be visible before the flag is read: the driver clears the flag and
        // then looks at the index (VIRTIO 1.2, 2.7.7.2).
        fence(Ordering::SeqCst);
        let flags = GuestAddress(self.ring.avail_ring());
        let flags: u16 =
            self.memory.load(flags, Ordering::Relaxed).map_err(|_| self.ring_fault())?;
        Ok(u32::from(u16::from_le(flags)) & VRING_AVAIL_F_NO_INTERRUPT == 0)
    }

    /// Asks the driver not to notify: the device looks at the queue anyway.
    ///
    /// # Errors
    /// The rings could not be written: never with a validated queue.
    pub fn mute(&mut self) -> Result<(), QueueFault> {
        self.ring.disable_notification(&self.memory).map_err(|_| self.ring_fault())
    }

    /// Asks the driver to notify from now on. `true`: chains came in the meantime and will not be
    /// notified; look again.
    ///
    /// # Errors
    /// The rings could not be accessed: never with a validated queue.
    pub fn unmute(&mut self) -> Result<bool, QueueFault> {
        self.ring.enable_notification(&self.memory).map_err(|_| self.ring_fault())
    }

    /// Up to `limit` bytes of these segments after the first `skip`, as guest memory.
    ///
    /// # Errors
    /// A segment is not in memory: never with a segment of this queue.
    pub fn slices(
        &self,
        segments: &[Segment],
        skip: usize,
        limit: usize,
    ) -> Result<Vec<VolatileSlice<'_>>, QueueFault> {
        let mut slices = Vec::with_capacity(segments.len());
        let (mut skip, mut limit) = (skip, limit);
        for Segment { address, length } in segments {
            let start = skip.min(*length as usize);
            let rest = limit.min(*length as usize - start);
            (skip, limit) = (skip - start, limit - rest);
            if rest > 0 {
                let slice = self.region(*address, *length).and_then(|(region, place)| {
                    let place = MemoryRegionAddress(place.raw_value() + start as u64);
                    region.get_slice(place, rest).ok()
                });
                let fault = QueueFault::NotInMemory { address: address.0, length: *length };
                slices.push(slice.ok_or(fault)?);
            }
        }
        Ok(slices)
    }

    /// Copies from the front of these segments; returns how many bytes there were.
    ///
    /// # Errors
    /// As [`Self::slices`].
    pub fn read(&self, segments: &[Segment], buffer: &mut [u8]) -> Result<usize, QueueFault> {
        let mut done = 0;
        for slice in self.slices(segments, 0, buffer.len())? {
            let (_, rest) = buffer.split_at_mut(done);
            done += slice.copy_to(rest);
        }
        Ok(done)
    }

    /// Copies to the front of these segments, as far as they reach.
    ///
    /// # Errors
    /// As [`Self::slices`].
    pub fn write(&self, segments: &[Segment], bytes: &[u8]) -> Result<(), QueueFault> {
        let mut rest = bytes;
        for slice in self.slices(segments, 0, bytes.len())? {
            slice.copy_from(rest);
            rest = rest.get(slice.len()..).unwrap_or_default();
        }
        Ok(())
    }

    /// Checks the chain at `head` and copies its descriptors. Returns how many are readable.
    fn walk(&self, head: u16, segments: &mut Vec<Segment>) -> Result<usize, QueueFault> {
        let size = self.ring.size();
        // A table lies in one piece of memory: it was checked, and guest memory has no two that touch.
        let table = GuestAddress(self.ring.desc_table());
        let table = self
            .memory
            .get_slice(table, size_of::<Descriptor>() * usize::from(size))
            .map_err(|_| QueueFault::DescriptorIndex { index: head })?;
        let (mut readable, mut count, mut bytes) = (0, 0, 0);
        let mut index = head;
        loop {
            // A chain has each descriptor of the table at most once (VIRTIO 1.2, 2.7.5.2).
            if count >= size {
                return Err(QueueFault::Loop);
            }
            count += 1;
            let place = size_of::<Descriptor>() * usize::from(index);
            let descriptor: Descriptor =
                table.get_ref(place).map_err(|_| QueueFault::DescriptorIndex { index })?.load();
            let segment = self.segment(&descriptor)?;
            bytes += segment.length;
            if bytes > self.max_chain_bytes {
                return Err(QueueFault::ChainBytes);
            }
            let writable = descriptor.is_write_only();
            let started = readable < segments.len();
            // Readable ones come first (VIRTIO 1.2, 2.7.4.2).
            if started && !writable {
                return Err(QueueFault::Direction);
            }
            // Pages of a large buffer often follow each other: one copy then, in place of hundreds.
            let after = segments
                .last_mut()
                .filter(|last| started == writable && last.end() == segment.address.raw_value());
            match after {
                Some(last) => last.length += segment.length,
                None => {
                    segments.push(segment);
                    readable += usize::from(!writable);
                }
            }
            if !descriptor.has_next() {
                break;
            }
            index = descriptor.next();
        }
        // Memory that is named twice is written twice: a guest can change its memory at any moment anyway.
        Ok(readable)
    }

    fn segment(&self, descriptor: &Descriptor) -> Result<Segment, QueueFault> {
        let (address, length) = (descriptor.addr(), descriptor.len());
        if u32::from(descriptor.flags()) & VRING_DESC_F_INDIRECT != 0 {
            return Err(QueueFault::Indirect);
        }
        if length == 0 {
            return Err(QueueFault::ZeroLength);
        }
        // Before the range check: it walks memory regions by length.
        if length > self.max_chain_bytes {
            return Err(QueueFault::ChainBytes);
        }
        match self.region(address, length) {
            Some(_) => Ok(Segment { address, length }),
            None => Err(QueueFault::NotInMemory { address: address.0, length }),
        }
    }

    /// The region of memory in which a piece lies wholly, and where: guest memory has no two that touch. A large transfer has
    /// hundreds of pieces, and a general walk costs several times as much.
    fn region(&self, address: GuestAddress, length: u32) -> Option<(&Region, MemoryRegionAddress)> {
        self.memory.iter().find_map(|region| {
            let place = region.to_region_addr(address)?;
            let end = place.raw_value().checked_add(length.into())?;
            (end <= region.len()).then_some((region, place))
        })
    }

    fn ring_fault(&self) -> QueueFault {
        QueueFault::Area { address: self.ring.used_ring() }
    }
}
