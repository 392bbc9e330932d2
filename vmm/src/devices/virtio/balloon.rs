//! The balloon device (VIRTIO 1.2, section 5.5), for free page reporting alone: the guest tells which of its memory it has no
//! use for, and that goes back to the host until the guest touches it again. Nothing is ever asked of the guest: the balloon
//! itself stays empty.

use std::os::fd::RawFd;

use super::device::{Cause, Device, Facts, Turn};
use super::fault::{Fault, QueueFault};
use super::queue::{Chain, Queue};
use crate::memory::Giver;

/// The balloon device's id.
const DEVICE_ID: u32 = 5;
/// `VIRTIO_BALLOON_F_REPORTING`: there is a queue for reports.
const FEATURE_REPORTING: u64 = 1 << 5;
/// Inflate and deflate, which every balloon has; then reports, since the queues between (5.5.2) are not offered, and drivers
/// number those that there are. Linux wants room for 32 pieces in a report.
const QUEUE_SIZES: &[u16] = &[8, 8, 32];
/// The queue of reports.
const REPORTS: usize = 2;
/// `num_pages` and `actual`: the balloon is to have no page, and has none.
const CONFIG_BYTES: usize = 8;
/// Chains in one turn: a driver has one report under way.
const CHAINS_PER_TURN: usize = 4;

/// The balloon device.
#[derive(Debug)]
pub struct Balloon {
    queues: Vec<Queue>,
    giver: Giver,
}

impl Balloon {
    /// A stopped device that gives memory back by this.
    #[must_use]
    pub fn new(giver: Giver) -> Self {
        Self { queues: Vec::new(), giver }
    }

    /// Bytes that went back to the host, those that went again counted again.
    #[must_use]
    pub fn given_bytes(&self) -> u64 {
        self.giver.given_bytes()
    }
}

/// Gives back what a report names.
fn take(giver: &mut Giver, report: &Chain) -> Result<(), Fault> {
    // Reported pages are the device's to write (5.5.6.7).
    if !report.readable().is_empty() {
        return Err(QueueFault::Direction.into());
    }
    for segment in report.writable() {
        giver.give(&segment.range())?;
    }
    Ok(())
}

impl Device for Balloon {
    /// The driver waits for the answer to a report. So the guest's own vCPU pays for it, and nobody else waits.
    const IS_PROMPT: bool = true;
    /// Linux reports 32 pieces at once, each at most its largest free block, of 4 MiB.
    const MAX_CHAIN_BYTES: u32 = 32 * (4 << 20);

    fn facts(&self) -> Facts {
        Facts {
            id: DEVICE_ID,
            features: FEATURE_REPORTING,
            queue_sizes: QUEUE_SIZES,
            config: vec![0; CONFIG_BYTES],
        }
    }

    fn sources(&self) -> Vec<RawFd> {
        Vec::new()
    }

    fn start(&mut self, queues: Vec<Queue>) {
        self.queues = queues;
    }

    fn stop(&mut self) -> Vec<Queue> {
        std::mem::take(&mut self.queues)
    }

    fn queues(&self) -> Vec<&Queue> {
        self.queues.iter().collect()
    }

    fn work(&mut self, cause: Cause) -> Result<Turn, Fault> {
        let Cause::Queue(index) = cause else { return Ok(Turn::default()) };
        let Self { queues, giver } = self;
        let Some(queue) = queues.get_mut(index) else { return Ok(Turn::default()) };
        queue.mute()?;
        let mut again = Some(index);
        for _ in 0..CHAINS_PER_TURN {
            let Some(chain) = queue.pop()? else {
                if queue.unmute()? {
                    continue;
                }
                again = None;
                break;
            };
            // What a guest puts into a balloon that is to be empty, unasked, stays as it is.
            if index == REPORTS {
                take(giver, &chain)?;
            }
            queue.push(chain, 0)?;
        }
        Ok(Turn { interrupt: queue.wants_interrupt()?, again })
    }
}
