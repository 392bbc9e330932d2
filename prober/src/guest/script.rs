//! A guest's orders, put together; and the registers of virtio-mmio (virtio 1.2, 4.2.2) and of vsock (5.10) as a
//! driver writes them, well or badly.

use super::interpreter as order;

/// The devices' registers, a page each: vsock, entropy, balloon, shared directories.
pub(super) const VSOCK: u32 = 0xd000_0000;
pub(super) const RNG: u32 = 0xd000_1000;
pub(super) const BALLOON: u32 = 0xd000_2000;
pub(super) const FS: u32 = 0xd000_3000;

// Registers.
pub(super) const FEATURE_PAGE: u32 = 0x24;
pub(super) const FEATURES: u32 = 0x20;
pub(super) const QUEUE: u32 = 0x30;
pub(super) const QUEUE_SIZE: u32 = 0x38;
pub(super) const QUEUE_READY: u32 = 0x44;
pub(super) const NOTIFY: u32 = 0x50;
pub(super) const ACKNOWLEDGE: u32 = 0x64;
pub(super) const STATUS: u32 = 0x70;
pub(super) const DESCRIPTORS: u32 = 0x80;
pub(super) const AVAILABLE: u32 = 0x90;
pub(super) const USED: u32 = 0xa0;
pub(super) const CONFIG: u32 = 0x100;

/// Status: acknowledged, driver, features, ready.
pub(super) const READY: u32 = 15;
/// Descriptor flags.
pub(super) const NEXT: u32 = 1;
pub(super) const WRITE: u32 = 2;
pub(super) const INDIRECT: u32 = 4;

/// Where queue number n of a device lies in the guest's memory, a piece each.
pub(super) const QUEUES: u32 = 0x20_0000;
const QUEUE_BYTES: u32 = 0x1_0000;
const AVAILABLE_AT: u32 = 0x4000;
const USED_AT: u32 = 0x8000;
/// Where buffers are.
pub(super) const BUFFERS: u32 = 0x40_0000;
/// Descriptors of a queue here.
pub(super) const SIZE: u32 = 64;

/// Orders.
#[derive(Clone, Debug, Default)]
pub(super) struct Script {
    orders: Vec<[u32; 8]>,
    /// Machine code for [`Script::call`], behind the orders.
    code: Vec<u8>,
    /// Orders whose address is that of a piece of code: which order, where in `code`.
    calls: Vec<(usize, usize)>,
}

impl Script {
    pub(super) fn many(mut self, order: u32, at: u32, value: u32, times: [u32; 3]) -> Self {
        let [count, step, change] = times;
        self.orders.push([order, at, value, count, step, change, 0, 0]);
        self
    }

    pub(super) fn one(self, order: u32, at: u32, value: u32) -> Self {
        self.many(order, at, value, [1, 0, 0])
    }

    pub(super) fn write(self, at: u32, value: u32) -> Self {
        self.one(order::WRITE_32, at, value)
    }

    pub(super) fn words(mut self, at: u32, words: &[u32]) -> Self {
        for (address, word) in (at..).step_by(4).zip(words) {
            self = self.write(address, *word);
        }
        self
    }

    /// The number of the next order, to come back to.
    pub(super) fn here(&self) -> u32 {
        u32::try_from(self.orders.len()).unwrap_or(u32::MAX)
    }

    /// Back to an order, until it has been there so often; 0: for ever.
    pub(super) fn again(self, from: u32, times: u32) -> Self {
        self.many(order::AGAIN, from, 0, [times, 0, 0])
    }

    /// Runs machine code; it ends with `ret` (0xc3), or never.
    pub(super) fn call(mut self, code: &[u8]) -> Self {
        self.calls.push((self.orders.len(), self.code.len()));
        self.code.extend(code);
        self.one(order::CALL, 0, 0)
    }

    /// Sets a device up to where its queues come.
    pub(super) fn begin(self, device: u32) -> Self {
        let status = device + STATUS;
        self.write(status, 0)
            .write(status, 1)
            .write(status, 3)
            .write(device + FEATURE_PAGE, 0)
            .write(device + FEATURES, 0)
            .write(device + FEATURE_PAGE, 1)
            // VIRTIO_F_VERSION_1.
            .write(device + FEATURES, 1)
            .write(status, 11)
    }

    /// Sets a queue up, at its place.
    pub(super) fn queue(self, device: u32, queue: u32) -> Self {
        let place = place(queue);
        self.queue_at(device, queue, SIZE, [place, place + AVAILABLE_AT, place + USED_AT])
    }

    pub(super) fn queue_at(self, device: u32, queue: u32, size: u32, places: [u32; 3]) -> Self {
        let [descriptors, available, used] = places;
        self.write(device + QUEUE, queue)
            .write(device + QUEUE_SIZE, size)
            .write(device + DESCRIPTORS, descriptors)
            .write(device + DESCRIPTORS + 4, 0)
            .write(device + AVAILABLE, available)
            .write(device + AVAILABLE + 4, 0)
            .write(device + USED, used)
            .write(device + USED + 4, 0)
            .write(device + QUEUE_READY, 1)
    }

    /// Sets a device with so many queues up.
    pub(super) fn device(mut self, device: u32, queues: u32) -> Self {
        self = self.begin(device);
        for queue in 0..queues {
            self = self.queue(device, queue);
        }
        self.write(device + STATUS, READY)
    }

    /// A descriptor: address, high half of it, length, flags and next.
    pub(super) fn descriptor(self, queue: u32, index: u32, words: [u32; 4]) -> Self {
        self.words(place(queue) + 16 * index, &words)
    }

    /// Makes the first `count` descriptors available and tells the device.
    pub(super) fn offer(mut self, device: u32, queue: u32, count: u32) -> Self {
        let ring = place(queue) + AVAILABLE_AT;
        self = self.many(order::WRITE_16, ring + 4, 0, [count.max(1), 2, 1]);
        self.available(queue, count).write(device + NOTIFY, queue)
    }

    /// Where the ring's end is said to be.
    pub(super) fn available(self, queue: u32, index: u32) -> Self {
        self.one(order::WRITE_16, place(queue) + AVAILABLE_AT + 2, index)
    }

    /// A vsock packet's header in the buffers, from this guest to the host.
    pub(super) fn packet(self, at: u32, ports: [u32; 2], length: u32, operation: u32) -> Self {
        let [from, to] = ports;
        self.packet_between(at, [3, 2], [from, to], [length, 1, operation])
    }

    pub(super) fn packet_between(
        self,
        at: u32,
        ids: [u32; 2],
        ports: [u32; 2],
        kind: [u32; 3],
    ) -> Self {
        let ([source, target], [from, to], [length, kind, operation]) = (ids, ports, kind);
        let words = [source, 0, target, 0, from, to, length, kind | operation << 16, 0, 1 << 16, 0];
        self.words(at, &words)
    }

    /// Time for the event loop to see what it was told, in accesses to a port where nothing is.
    pub(super) fn settle(self) -> Self {
        self.many(order::IN_8, 0x80, 0, [1500, 0, 0])
    }

    /// The guest's memory from its load address on. The last order powers off.
    pub(super) fn assemble(mut self) -> Vec<u8> {
        self = self.one(order::END, 0, 0);
        let orders = u32::try_from(self.orders.len() * order::ORDER_BYTES).unwrap_or(0);
        let code_at = order::orders_address() + orders;
        for (index, offset) in &self.calls {
            if let Some(order) = self.orders.get_mut(*index) {
                order[1] = code_at + u32::try_from(*offset).unwrap_or(0);
            }
        }
        let mut bytes = order::code();
        for word in self.orders.iter().flatten() {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend(&self.code);
        bytes
    }
}

/// Where a queue lies.
pub(super) const fn place(queue: u32) -> u32 {
    QUEUES + queue * QUEUE_BYTES
}
