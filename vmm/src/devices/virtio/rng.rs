//! The entropy device (VIRTIO 1.2, section 5.4): the host kernel's random bytes, at a bounded rate.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::time::{Duration, Instant};

use vm_memory::VolatileSlice;
use vmm_sys_util::timerfd::TimerFd;

use super::device::{Cause, Device, Facts, Turn};
use super::fault::{Fault, QueueFault};
use super::queue::{Chain, Queue};
use super::rate::TokenBucket;
use super::sys;

/// The entropy device's id.
const DEVICE_ID: u32 = 4;
/// Drivers have one request in flight.
const QUEUE_SIZES: &[u16] = &[8];
/// Most bytes for one request: bounds the time of one answer. The rest of a larger buffer stays
/// unused, which the device may do (5.4.6.1).
const MAX_REQUEST_BYTES: usize = 64 << 10;
/// Steady rate: far above what a kernel's pool needs, and a fraction of a percent of a host CPU.
const BYTES_PER_SECOND: u64 = 1 << 20;
/// What can be had at once: a few full requests.
const BURST_BYTES: u64 = 256 << 10;
/// What a smaller request counts as, because it costs about as much: 2048 requests a second.
const REQUEST_COST_BYTES: u64 = 512;
/// A larger request waits for this much and then gets what there is: 256 wake-ups a second.
const PARTIAL_BYTES: u64 = 4 << 10;
/// Requests in one turn: at most the burst's worth of work, then others have theirs.
const REQUESTS_PER_TURN: usize = 16;

/// The entropy device.
#[derive(Debug)]
pub struct Rng {
    queue: Option<Queue>,
    bucket: TokenBucket,
    refilled: TimerFd,
    served_bytes: u64,
}

impl Rng {
    /// A stopped device.
    ///
    /// # Errors
    /// No timer could be made.
    pub fn new() -> io::Result<Self> {
        let bucket = TokenBucket::new(BURST_BYTES, BYTES_PER_SECOND, Instant::now());
        Ok(Self { queue: None, bucket, refilled: TimerFd::new()?, served_bytes: 0 })
    }

    /// Bytes that the guest drew.
    #[must_use]
    pub fn served_bytes(&self) -> u64 {
        self.served_bytes
    }

    /// Answers requests until there are none, the rate is used up, or the turn is over.
    fn serve(&mut self, queue: &mut Queue) -> Result<Turn, Fault> {
        queue.mute()?;
        let mut again = Some(0);
        for _ in 0..REQUESTS_PER_TURN {
            let Some(chain) = queue.pop()? else {
                if queue.unmute()? {
                    continue;
                }
                again = None;
                break;
            };
            let wanted = request_bytes(&chain)?;
            let granted = match self.grant(wanted) {
                Ok(granted) => granted,
                Err(wait) => {
                    queue.unpop(chain);
                    self.refilled.reset(wait, None).map_err(io::Error::from)?;
                    again = None;
                    break;
                }
            };
            for slice in queue.slices(chain.writable(), 0, granted)? {
                fill(&slice)?;
            }
            self.served_bytes = self.served_bytes.saturating_add(granted as u64);
            queue.push(chain, u32::try_from(granted).unwrap_or(0))?;
        }
        Ok(Turn { interrupt: queue.wants_interrupt()?, again })
    }

    /// How many of the wanted bytes may be given now, or how long to wait.
    fn grant(&mut self, wanted: usize) -> Result<usize, Duration> {
        let wanted = wanted as u64;
        let least = wanted.clamp(REQUEST_COST_BYTES, PARTIAL_BYTES);
        let available = self.bucket.available(Instant::now());
        if available < least {
            return Err(self.bucket.time_until(least).max(Duration::from_micros(1)));
        }
        let granted = wanted.min(available);
        self.bucket.take(granted.max(REQUEST_COST_BYTES));
        Ok(usize::try_from(granted).unwrap_or(0))
    }
}

impl Device for Rng {
    fn facts(&self) -> Facts {
        Facts { id: DEVICE_ID, features: 0, queue_sizes: QUEUE_SIZES, config: Vec::new() }
    }

    fn sources(&self) -> Vec<RawFd> {
        vec![self.refilled.as_raw_fd()]
    }

    fn start(&mut self, queues: Vec<Queue>) {
        self.queue = queues.into_iter().next();
    }

    fn stop(&mut self) -> Vec<Queue> {
        self.queue.take().into_iter().collect()
    }

    fn queues(&self) -> Vec<&Queue> {
        self.queue.iter().collect()
    }

    fn work(&mut self, cause: Cause) -> Result<Turn, Fault> {
        if let Cause::Source(_) = cause {
            // Disarming also takes the readiness away.
            self.refilled.clear().map_err(io::Error::from)?;
        }
        let Some(mut queue) = self.queue.take() else { return Ok(Turn::default()) };
        let turn = self.serve(&mut queue);
        self.queue = Some(queue);
        turn
    }
}

/// How much of the chain to fill.
fn request_bytes(chain: &Chain) -> Result<usize, QueueFault> {
    // The driver MUST NOT post readable buffers (5.4.6.1).
    if !chain.readable().is_empty() {
        return Err(QueueFault::Direction);
    }
    Ok(Chain::bytes(chain.writable()).min(MAX_REQUEST_BYTES))
}

/// Fills guest memory with random bytes by way of a buffer that the guest can't see.
fn fill(slice: &VolatileSlice<'_>) -> Result<(), Fault> {
    let mut random = [0_u8; 4096];
    let mut done = 0;
    while done < slice.len() {
        let rest = slice.offset(done).map_err(io::Error::other)?;
        let length = rest.len().min(random.len());
        let (part, _) = random.split_at_mut(length);
        sys::fill_random(part)?;
        rest.copy_from(part);
        done += length;
    }
    Ok(())
}
