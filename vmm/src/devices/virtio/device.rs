//! What a virtio device is to its transport: facts, start, stop, and work in between.

use std::os::fd::RawFd;

use super::after::Messages;
use super::fault::Fault;
use super::queue::{self, Queue};

/// What never changes about a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The device id (VIRTIO 1.2, section 5).
    pub id: u32,
    /// The feature bits that are offered beside the transport's own.
    pub features: u64,
    /// One entry a queue: its largest size, a power of two.
    pub queue_sizes: &'static [u16],
    /// The device configuration space. Read-only.
    pub config: Vec<u8>,
}

/// Why a device is given work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The driver notified this queue, or the device asked to come back to it.
    Queue(usize),
    /// This one of [`Device::sources`] became readable. Also comes while the device is stopped.
    Source(usize),
}

/// What a piece of work leaves for the transport to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Turn {
    /// The driver wants an interrupt for used buffers.
    pub interrupt: bool,
    /// The budget ended before the work did: come back with this queue as the cause.
    pub again: Option<usize>,
}

/// A device behind a [`super::Transport`].
///
/// All calls come one at a time under the transport's lock: `work` from the event loop and, if
/// [`Self::IS_PROMPT`], from vCPU threads, `start` and `stop` also from these. None may block or take
/// longer than its budget.
pub trait Device {
    /// Whether the vCPU that notifies a queue does the work at once, in place of the event loop: for a
    /// device whose driver waits for the answer anyway. It spares that wait the wake-up of a thread.
    const IS_PROMPT: bool = false;
    /// Most bytes in one chain; more breaks the device.
    const MAX_CHAIN_BYTES: u32 = queue::MAX_CHAIN_BYTES;

    /// What never changes. Asked once.
    fn facts(&self) -> Facts;
    /// Descriptors of the device's own that make work when readable. Asked once; the device keeps
    /// them open.
    fn sources(&self) -> Vec<RawFd>;
    /// The driver is ready: here is a validated queue for each of [`Facts::queue_sizes`].
    fn start(&mut self, queues: Vec<Queue>);
    /// The driver is gone: gives the queues back, and with them all use of guest memory ends. Makes no
    /// system call, for a vCPU thread may make few; what else there is to end, the next `work` ends,
    /// which comes soon. Does nothing when stopped; a transport calls it on every reset.
    fn stop(&mut self) -> Vec<Queue>;
    /// The queues that it works on, in their order; none while it is stopped.
    fn queues(&self) -> Vec<&Queue>;
    /// Whether it holds no buffer of its queues between two calls, so that it can be saved now.
    fn is_at_rest(&self) -> bool {
        true
    }
    /// Bounded work. Consumes the readiness of a source.
    ///
    /// # Errors
    /// Whose fault it is that the device can't go on.
    fn work(&mut self, cause: Cause) -> Result<Turn, Fault>;
    /// Takes the messages that the last piece of work wants to be sent.
    fn messages(&mut self) -> Option<Messages> {
        None
    }
    /// Not all of them could be sent.
    fn lost(&mut self) {}
}
