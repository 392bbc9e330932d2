//! What a device's work leads to outside of it: an interrupt, messages. Both wake somebody who may want the device next, and on a
//! busy host runs at once in the place of who woke him; so they come when its lock has been let go.

use std::fmt::Debug;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;

use vm_memory::VolatileSlice;
use vmm_sys_util::eventfd::EventFd;

use super::sys;

/// How a device interrupts its guest.
pub trait Interrupt: Debug + Send + Sync {
    /// Does so once; without effect when nobody can be interrupted any more.
    fn signal(&self);
}

/// Without a VM: whoever plays the guest reads the event.
impl Interrupt for EventFd {
    fn signal(&self) {
        // Fails only when the counter is full; then a signal is pending already.
        drop(self.write(1));
    }
}

/// Bytes of a message.
pub const MESSAGE_BYTES: usize = 12;

/// Messages to be sent, each of them whole.
#[derive(Debug)]
#[must_use]
pub struct Messages {
    /// Where to.
    pub socket: Arc<OwnedFd>,
    /// What.
    pub messages: Vec<[u8; MESSAGE_BYTES]>,
}

impl Messages {
    /// Sends them. `false`: not all could be.
    #[must_use]
    pub fn send(mut self) -> bool {
        self.messages.iter_mut().all(|message| {
            let pieces = [VolatileSlice::from(&mut message[..])];
            sys::send(self.socket.as_fd(), &pieces).is_ok_and(|sent| sent == MESSAGE_BYTES)
        })
    }
}

/// What is left to be done.
#[derive(Debug, Default)]
#[must_use]
pub struct After {
    pub(super) interrupt: Option<Arc<dyn Interrupt>>,
    pub(super) messages: Option<Messages>,
}

impl After {
    /// Does it. `false`: messages could not be sent, and the device must learn of it.
    #[must_use]
    pub fn run(self) -> bool {
        let sent = self.messages.is_none_or(Messages::send);
        if let Some(interrupt) = self.interrupt {
            interrupt.signal();
        }
        sent
    }
}
