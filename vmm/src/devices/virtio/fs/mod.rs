//! The file system device (VIRTIO 1.2, section 5.11): carries FUSE messages between the guest and the
//! file server, and looks at none of them.
//!
//! A request is copied out of guest memory once, into a slot of the bounce area; the file server is told
//! by a message on a socket, and tells by another when its reply lies there. Guest memory is nothing
//! that the file server ever sees, and a reply's length is checked before it is used. While every slot
//! is in use, requests wait in the queue.

mod slots;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use vm_memory::VolatileSlice;

use super::after::{MESSAGE_BYTES, Messages};
use super::device::{Cause, Device, Facts, Turn};
use super::fault::{Fault, QueueFault};
use super::queue::{Chain, Queue};
use super::sys;
use slots::{Slots, Taken};

/// The file system device's id.
const DEVICE_ID: u32 = 26;
/// Forgets and interrupts; then requests. A request of 1 MiB takes a descriptor for each of its 256
/// pages, so a few of the largest fit at once.
const QUEUE_SIZES: &[u16] = &[64, 1024];
/// By which name the guest mounts it.
const TAG: &[u8] = b"cloister";
/// Bytes of the name in the configuration.
const TAG_BYTES: usize = 36;
/// Least bytes of a request: FUSE's header.
const MIN_REQUEST: usize = 40;
/// Requests that one turn takes: all slots once.
const REQUESTS_PER_TURN: usize = crate::spec::SHARE_SLOTS as usize;
/// Bytes of a message from the file server: slot, length of the reply. One to it has: slot, length of the request, room for
/// the reply.
const DONE_BYTES: usize = 8;

/// The file system device.
#[derive(Debug)]
pub struct Fs {
    queues: Vec<Queue>,
    slots: Slots,
    server: Arc<OwnedFd>,
    /// For the file server.
    outbox: Vec<[u8; MESSAGE_BYTES]>,
    /// A queue has requests that found no slot.
    waiting: [bool; 2],
    /// It takes no further request.
    held: bool,
    failure: Option<String>,
    requests: u64,
}

impl Fs {
    /// A stopped device. `area`: the bounce area, of [`crate::spec::SHARE_SLOTS`] slots, sealed against
    /// resizing. `server`: the socket to the file server.
    ///
    /// # Errors
    /// The area is something else, or can't be mapped.
    pub fn new(area: File, server: OwnedFd) -> io::Result<Self> {
        let slots = Slots::new(area)?;
        let queues = Vec::new();
        Ok(Self {
            queues,
            slots,
            server: Arc::new(server),
            outbox: Vec::new(),
            waiting: [false; 2],
            held: false,
            failure: None,
            requests: 0,
        })
    }

    /// Why the file server can't be used any more, if that is so: the machine can't go on then.
    #[must_use]
    pub fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    /// Requests that were handed over.
    #[must_use]
    pub const fn requests(&self) -> u64 {
        self.requests
    }

    /// Whether requests stay in their queues from now on, so that the device comes to rest. Whoever lets them go again
    /// has the queues looked at.
    pub fn hold(&mut self, held: bool) {
        self.held = held;
    }

    fn fail(&mut self, why: &str) -> Fault {
        self.failure.get_or_insert_with(|| why.to_owned());
        Fault::Host(io::Error::other(why.to_owned()))
    }

    /// Hands requests of a queue over until there are none, no slot is free, or the turn is over.
    /// `true`: it is over.
    fn serve(&mut self, index: usize) -> Result<bool, Fault> {
        let Some(queue) = self.queues.get_mut(index) else { return Ok(false) };
        queue.mute()?;
        for _ in 0..REQUESTS_PER_TURN {
            if self.held || !self.slots.has_free(index) {
                self.set_waiting(index, true);
                return Ok(false);
            }
            let Some(queue) = self.queues.get_mut(index) else { return Ok(false) };
            let Some(chain) = queue.pop()? else {
                if queue.unmute()? {
                    continue;
                }
                return Ok(false);
            };
            self.hand_over(index, chain)?;
        }
        Ok(true)
    }

    fn set_waiting(&mut self, index: usize, waits: bool) {
        if let Some(waiting) = self.waiting.get_mut(index) {
            *waiting = waits;
        }
    }

    fn hand_over(&mut self, index: usize, chain: Chain) -> Result<(), Fault> {
        let Some(queue) = self.queues.get(index) else { return Ok(()) };
        let bytes = Chain::bytes(chain.readable());
        if bytes < MIN_REQUEST {
            return Err(QueueFault::TooSmall.into());
        }
        if bytes > crate::spec::SHARE_SLOT_BYTES {
            return Err(QueueFault::ChainBytes.into());
        }
        let request = queue.slices(chain.readable(), 0, bytes)?;
        let Some(taken) = self.slots.take(index, &request, chain) else { return Ok(()) };
        let Taken { slot, reply_bytes } = taken;
        let words = [slot, u32::try_from(bytes).unwrap_or(0), reply_bytes];
        let mut job = [0; MESSAGE_BYTES];
        for (place, word) in job.chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        self.requests = self.requests.saturating_add(1);
        self.outbox.push(job);
        Ok(())
    }

    /// Completes what the file server has done, then takes what waited for a slot. The queue whose turn
    /// is over, if one is.
    fn complete(&mut self) -> Result<Option<usize>, Fault> {
        for _ in 0..REQUESTS_PER_TURN {
            // One byte more, so that a longer message can't pass.
            let mut message = [0; DONE_BYTES + 1];
            let pieces = [VolatileSlice::from(&mut message[..])];
            match sys::receive(self.server.as_fd(), &pieces) {
                Ok(DONE_BYTES) => {}
                Ok(0) => return Err(self.fail("the file server has ended")),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => return Err(self.fail("the file server has ended")),
                Ok(_) => return Err(self.fail("the file server sent a message that is none")),
            }
            let [a, b, c, d, e, f, g, h, _] = message;
            let slot = u32::from_le_bytes([a, b, c, d]);
            let bytes = u32::from_le_bytes([e, f, g, h]);
            self.finish(slot, bytes)?;
            // Nothing more is due, so there is nothing to ask for.
            if self.slots.all_free() {
                break;
            }
        }
        let mut again = None;
        for index in 0..self.waiting.len() {
            if self.waiting.get(index) == Some(&true) {
                self.set_waiting(index, false);
                if self.serve(index)? {
                    again = Some(index);
                }
            }
        }
        Ok(again)
    }

    fn finish(&mut self, slot: u32, bytes: u32) -> Result<(), Fault> {
        let Some(held) = self.slots.give(slot, bytes) else {
            return Err(self.fail("the file server answered what was not asked, or too long"));
        };
        // A driver that has reset the device does not wait for it any more.
        let Some((index, chain)) = held else { return Ok(()) };
        let Some(queue) = self.queues.get_mut(index) else { return Ok(()) };
        let reply = queue.slices(chain.writable(), 0, usize::try_from(bytes).unwrap_or(0))?;
        self.slots.copy_reply(slot, &reply);
        Ok(queue.push(chain, bytes)?)
    }

    fn wants_interrupt(&mut self) -> Result<bool, QueueFault> {
        self.queues
            .iter_mut()
            .try_fold(false, |wanted, queue| Ok(queue.wants_interrupt()? | wanted))
    }
}

impl Device for Fs {
    /// Who reads or writes a file waits for it.
    const IS_PROMPT: bool = true;

    fn facts(&self) -> Facts {
        let mut config = TAG.to_vec();
        config.resize(TAG_BYTES, 0);
        // How many queues of requests.
        config.extend(1_u32.to_le_bytes());
        Facts { id: DEVICE_ID, features: 0, queue_sizes: QUEUE_SIZES, config }
    }

    fn sources(&self) -> Vec<RawFd> {
        vec![self.server.as_raw_fd()]
    }

    fn start(&mut self, queues: Vec<Queue>) {
        self.queues = queues;
    }

    fn stop(&mut self) -> Vec<Queue> {
        self.slots.orphan();
        self.waiting = [false; 2];
        std::mem::take(&mut self.queues)
    }

    fn queues(&self) -> Vec<&Queue> {
        self.queues.iter().collect()
    }

    fn is_at_rest(&self) -> bool {
        self.slots.all_free()
    }

    fn messages(&mut self) -> Option<Messages> {
        let messages = std::mem::take(&mut self.outbox);
        let socket = || Arc::clone(&self.server);
        (!messages.is_empty()).then(|| Messages { socket: socket(), messages })
    }

    fn lost(&mut self) {
        // There is room for a message about each slot.
        let why = "the file server takes no more requests";
        self.failure.get_or_insert_with(|| why.to_owned());
    }

    fn work(&mut self, cause: Cause) -> Result<Turn, Fault> {
        let again = match cause {
            Cause::Queue(index) => self.serve(index)?.then_some(index),
            Cause::Source(_) => self.complete()?,
        };
        Ok(Turn { interrupt: self.wants_interrupt()?, again })
    }
}
