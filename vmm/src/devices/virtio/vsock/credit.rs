//! Flow control (VIRTIO 1.2, section 5.10.6.3): who may send how much. Counters wrap at 2^32.

/// What the guest lets the device send.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SendCredit {
    buffer: u32,
    forwarded: u32,
    sent: u32,
}

impl SendCredit {
    /// Bytes that may be sent now.
    #[must_use]
    pub fn free(&self) -> u32 {
        // The guest may shrink its buffer below what is in flight.
        self.buffer.saturating_sub(self.in_flight())
    }

    /// The guest told its credit. A `forwarded` that goes back is ignored (the guest's threads can
    /// reorder their packets); so is one beyond what was sent, which is a lie: `false`.
    #[must_use]
    pub fn update(&mut self, buffer: u32, forwarded: u32) -> bool {
        self.buffer = buffer;
        let in_flight = self.sent.wrapping_sub(forwarded);
        if in_flight <= self.in_flight() {
            self.forwarded = forwarded;
            return true;
        }
        // Old values lie less than half the number space behind, lies ahead of `sent`.
        in_flight < u32::MAX / 2
    }

    /// `bytes`, at most [`Self::free`], were sent.
    pub fn spend(&mut self, bytes: u32) {
        self.sent = self.sent.wrapping_add(bytes);
    }

    fn in_flight(&self) -> u32 {
        self.sent.wrapping_sub(self.forwarded)
    }
}

/// What the device lets the guest send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReceiveCredit {
    buffer: u32,
    received: u32,
    forwarded: u32,
    announced: u32,
}

impl ReceiveCredit {
    /// The promise of a buffer of this many bytes.
    #[must_use]
    pub const fn new(buffer: u32) -> Self {
        Self { buffer, received: 0, forwarded: 0, announced: 0 }
    }

    /// Bytes promised at once.
    #[must_use]
    pub const fn buffer(&self) -> u32 {
        self.buffer
    }

    /// Bytes that were received and not forwarded yet; never more than the promise.
    #[must_use]
    pub fn held(&self) -> u32 {
        self.received.wrapping_sub(self.forwarded)
    }

    /// The guest sent `bytes`. `false`: beyond what it was promised, and not accepted.
    ///
    /// What was forwarded but not announced yet counts as free: the guest can't know, so it gains
    /// nothing, and memory is bounded all the same.
    #[must_use]
    pub fn accept(&mut self, bytes: u32) -> bool {
        let allowed = bytes <= self.buffer.saturating_sub(self.held());
        if allowed {
            self.received = self.received.wrapping_add(bytes);
        }
        allowed
    }

    /// `bytes`, at most [`Self::held`], left the buffer.
    pub fn forward(&mut self, bytes: u32) {
        self.forwarded = self.forwarded.wrapping_add(bytes);
    }

    /// Whether the guest should be told without waiting for other traffic: half the buffer became
    /// free. Enough against a stall: a guest without credit has filled the buffer, and emptying it
    /// passes the half; and few packets.
    #[must_use]
    pub fn worth_announcing(&self) -> bool {
        self.forwarded.wrapping_sub(self.announced) >= self.buffer / 2
    }

    /// The values for a header: buffer and forwarded. They count as told.
    pub fn announce(&mut self) -> (u32, u32) {
        self.announced = self.forwarded;
        (self.buffer, self.forwarded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sending_stops_at_the_guests_buffer() {
        let mut credit = SendCredit::default();
        assert_eq!(credit.free(), 0);
        assert!(credit.update(100, 0));
        credit.spend(60);
        assert_eq!(credit.free(), 40);
        assert!(credit.update(50, 0));
        assert_eq!(credit.free(), 0);
        assert!(credit.update(50, 30));
        assert_eq!(credit.free(), 20);
    }

    #[test]
    fn counters_wrap() {
        let mut credit = SendCredit { buffer: 100, forwarded: u32::MAX - 9, sent: u32::MAX - 9 };
        credit.spend(50);
        assert_eq!(credit.free(), 50);
        assert!(credit.update(100, 40));
        assert_eq!(credit.free(), 100);
        let mut credit = ReceiveCredit {
            buffer: 100,
            received: u32::MAX,
            forwarded: u32::MAX,
            announced: u32::MAX,
        };
        assert!(credit.accept(100));
        assert!(!credit.accept(1));
        credit.forward(50);
        assert!(credit.worth_announcing());
        assert_eq!(credit.announce(), (100, 49));
        assert!(!credit.worth_announcing());
        assert_eq!(credit.held(), 50);
    }

    #[test]
    fn lies_and_old_news_change_nothing() {
        let mut credit = SendCredit::default();
        assert!(credit.update(100, 0));
        credit.spend(80);
        assert!(credit.update(100, 50));
        assert!(credit.update(100, 20), "older than the last: reordered, not a lie");
        assert_eq!(credit.free(), 70);
        assert!(!credit.update(100, 81), "more than was sent");
        assert_eq!(credit.free(), 70);
    }

    #[test]
    fn an_overflow_is_refused_whole() {
        let mut credit = ReceiveCredit::new(100);
        assert!(credit.accept(99));
        assert!(!credit.accept(2));
        assert!(!credit.accept(u32::MAX));
        assert_eq!(credit.held(), 99);
        assert!(credit.accept(1));
    }
}
