//! A queue's configuration: plain data, checked by one validator, then frozen.

use virtio_queue::QueueT;
use vm_memory::{GuestAddress, GuestMemory, GuestMemoryMmap};

use super::fault::QueueFault;
use super::queue::Queue;

/// A queue's registers: plain data, from the driver or a snapshot, trusted by nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueConfig {
    /// The device's limit.
    pub max_size: u16,
    /// The driver's choice.
    pub size: u16,
    /// The driver is done with it.
    pub ready: bool,
    /// Descriptor table.
    pub descriptors: u64,
    /// Driver area (available ring).
    pub driver_area: u64,
    /// Device area (used ring).
    pub device_area: u64,
}

impl QueueConfig {
    /// A queue that the driver has not touched.
    #[must_use]
    pub const fn new(max_size: u16) -> Self {
        Self { max_size, size: 0, ready: false, descriptors: 0, driver_area: 0, device_area: 0 }
    }

    /// Checks everything and freezes it into a queue of which a chain has at most `max_chain_bytes`. The one way to make a
    /// [`Queue`].
    ///
    /// # Errors
    /// The first rule that the driver broke.
    pub fn validate(
        &self,
        memory: &GuestMemoryMmap,
        event_index: bool,
        max_chain_bytes: u32,
    ) -> Result<Queue, QueueFault> {
        if !self.ready {
            return Err(QueueFault::NotReady);
        }
        let Self { size, max_size: max, .. } = *self;
        if !size.is_power_of_two() || size > max {
            return Err(QueueFault::Size { size, max });
        }
        // Sizes and alignments: VIRTIO 1.2, section 2.7. The event index words count always.
        let entries = u64::from(size);
        let areas = [
            Area { start: self.descriptors, length: 16 * entries, align: 16 },
            Area { start: self.driver_area, length: 6 + 2 * entries, align: 2 },
            Area { start: self.device_area, length: 6 + 8 * entries, align: 4 },
        ];
        for area in &areas {
            area.check(memory)?;
        }
        let [first, second, third] = &areas;
        if first.overlaps(second) || first.overlaps(third) || second.overlaps(third) {
            return Err(QueueFault::AreasOverlap);
        }
        let ring = self.freeze(event_index).ok_or(QueueFault::Size { size, max })?;
        Ok(Queue::new(ring, memory.clone(), max_chain_bytes))
    }

    fn freeze(&self, event_index: bool) -> Option<virtio_queue::Queue> {
        let mut ring = virtio_queue::Queue::new(self.max_size).ok()?;
        ring.try_set_size(self.size).ok()?;
        ring.try_set_desc_table_address(GuestAddress(self.descriptors)).ok()?;
        ring.try_set_avail_ring_address(GuestAddress(self.driver_area)).ok()?;
        ring.try_set_used_ring_address(GuestAddress(self.device_area)).ok()?;
        ring.set_event_idx(event_index);
        ring.set_ready(true);
        Some(ring)
    }
}

/// One of a queue's three areas, as the driver placed it.
struct Area {
    start: u64,
    length: u64,
    align: u64,
}

impl Area {
    fn check(&self, memory: &GuestMemoryMmap) -> Result<(), QueueFault> {
        let fault = QueueFault::Area { address: self.start };
        // Address 0 is RAM, but it is also what a register that was never written holds.
        if self.start == 0 || !self.start.is_multiple_of(self.align) {
            return Err(fault);
        }
        let length = usize::try_from(self.length).map_err(|_| fault)?;
        if memory.check_range(GuestAddress(self.start), length) { Ok(()) } else { Err(fault) }
    }

    /// Both areas were checked: no end wraps.
    fn overlaps(&self, other: &Self) -> bool {
        self.start < other.start.saturating_add(other.length)
            && other.start < self.start.saturating_add(self.length)
    }
}
