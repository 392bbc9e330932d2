//! Tells the guest that its connections are gone: the event "transport reset" (VIRTIO 1.2, section 5.10.6.7),
//! after which the driver ends every socket that it knows.
//!
//! ```text
//!   Due ──a buffer for events──▶ Told ──the driver gives the buffer back──▶ No
//! ```
//! Until the driver has given the buffer back it has not handled the event, which would end a new connection
//! as well; so no packet goes to the guest before that.

use super::super::fault::QueueFault;
use super::super::queue::Queue;

/// `VIRTIO_VSOCK_EVENT_TRANSPORT_RESET`.
const TRANSPORT_RESET: u32 = 0;
/// How often the queue is looked at for one event: all its buffers, and the last look that finds none. A driver
/// that adds buffers all the time gets no more than that.
const MAX_BUFFERS: usize = 16;

/// How far the driver is with learning it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Anew {
    /// There is nothing to learn.
    No,
    /// It was not told yet.
    Due,
    /// It was told when it had made this many buffers available.
    Told {
        /// The index of its ring then.
        available: u16,
    },
}

impl Anew {
    /// Goes on as far as the driver lets it.
    pub(super) fn next(self, events: &mut Queue) -> Result<Self, QueueFault> {
        match self {
            Self::No => Ok(Self::No),
            Self::Due => tell(events),
            Self::Told { available } if events.available_index()? == available => Ok(self),
            Self::Told { .. } => Ok(Self::No),
        }
    }
}

fn tell(events: &mut Queue) -> Result<Anew, QueueFault> {
    // All buffers are taken for a moment: the driver notifies of a new one only if the device is seen to
    // have come to the end of those that there are.
    let mut chains = Vec::new();
    for _ in 0..MAX_BUFFERS {
        match events.pop()? {
            Some(chain) => chains.push(chain),
            None if events.unmute()? => {}
            None => break,
        }
    }
    let available = events.position().0;
    let mut chains = chains.into_iter();
    let first = chains.next();
    for chain in chains {
        events.unpop(chain);
    }
    let Some(chain) = first else { return Ok(Anew::Due) };
    let event = TRANSPORT_RESET.to_le_bytes();
    if !chain.readable().is_empty() {
        return Err(QueueFault::Direction);
    }
    if super::Chain::bytes(chain.writable()) < event.len() {
        return Err(QueueFault::TooSmall);
    }
    events.write(chain.writable(), &event)?;
    events.push(chain, 4)?;
    Ok(Anew::Told { available })
}
