//! The serial log: a 16550 UART whose output goes to the host's log pipe.
//!
//! It is a log, not a console: nothing is ever read. What the guest writes is bounded by a token
//! bucket, and a full pipe drops bytes instead of waiting, so a guest that floods it slows only
//! itself. Dropped bytes are counted.

use std::fs::File;
use std::io::{self, Write};
use std::time::Instant;

use vm_superio::{Serial, Trigger};

/// Bytes that may be written at once: an oops with its backtrace and the boot log around it.
const BURST_BYTES: u64 = 64 << 10;
/// Bytes a second after that: enough to follow, too few to fill a disk or a core.
const BYTES_PER_SECOND: u64 = 16 << 10;

/// The UART has no interrupt line.
#[derive(Debug)]
struct NoInterrupt;

impl Trigger for NoInterrupt {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        Ok(())
    }
}

/// The UART's 8 registers.
pub struct SerialLog {
    uart: Serial<NoInterrupt, vm_superio::serial::NoEvents, Limited<File>>,
}

impl std::fmt::Debug for SerialLog {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("SerialLog")
            .field("dropped", &self.dropped())
            .finish_non_exhaustive()
    }
}

impl SerialLog {
    /// `log` must not block.
    #[must_use]
    pub fn new(log: File) -> Self {
        Self { uart: Serial::new(NoInterrupt, Limited::new(log)) }
    }

    /// Reads a register.
    pub fn read(&mut self, register: u8) -> u8 {
        self.uart.read(register)
    }

    /// Writes a register. Output errors never reach the guest: what can't be written is counted.
    pub fn write(&mut self, register: u8, value: u8) {
        // The one error left is the interrupt's, and there is none.
        self.uart.write(register, value).ok();
    }

    /// Bytes dropped so far.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.uart.writer().dropped
    }
}

/// A writer that drops what is over the limit.
struct Limited<W> {
    out: W,
    tokens: u64,
    refilled: Instant,
    dropped: u64,
}

impl<W> Limited<W> {
    fn new(out: W) -> Self {
        Self { out, tokens: BURST_BYTES, refilled: Instant::now(), dropped: 0 }
    }

    /// Takes up to `want` tokens as of `now`.
    fn take(&mut self, want: u64, now: Instant) -> u64 {
        if self.tokens < want {
            let elapsed = now.saturating_duration_since(self.refilled);
            let millis = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
            let earned = millis.saturating_mul(BYTES_PER_SECOND) / 1000;
            if earned > 0 {
                self.tokens = self.tokens.saturating_add(earned).min(BURST_BYTES);
                self.refilled = now;
            }
        }
        let granted = want.min(self.tokens);
        self.tokens -= granted;
        granted
    }
}

impl<W: Write> Write for Limited<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let granted = self.take(bytes.len() as u64, Instant::now());
        let allowed = usize::try_from(granted).unwrap_or(0).min(bytes.len());
        let (allowed, refused) = bytes.split_at(allowed);
        let written = if allowed.is_empty() { 0 } else { self.out.write(allowed).unwrap_or(0) };
        self.dropped += (allowed.len() - written + refused.len()) as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_flood_is_cut_and_counted() {
        let mut log = Limited::new(Vec::new());
        let flood = vec![b'x'; 1024];
        for _ in 0..200 {
            log.write_all(&flood).unwrap();
        }
        let kept = log.out.len() as u64;
        assert!(kept >= BURST_BYTES, "{kept}");
        assert_eq!(kept + log.dropped, 200 * 1024);
        assert!(log.dropped > 0);
    }

    #[test]
    fn tokens_come_back_with_time() {
        let mut log = Limited::new(Vec::<u8>::new());
        let start = log.refilled;
        assert_eq!(log.take(BURST_BYTES + 5, start), BURST_BYTES);
        assert_eq!(log.take(10, start), 0);
        assert_eq!(log.take(1 << 20, start + Duration::from_secs(1)), BYTES_PER_SECOND);
        assert_eq!(log.take(1 << 20, start + Duration::from_secs(3600)), BURST_BYTES);
    }

    #[test]
    fn a_full_pipe_never_blocks() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::WouldBlock.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut log = Limited::new(Full);
        assert_eq!(log.write(b"abc").unwrap(), 3);
        assert_eq!(log.dropped, 3);
    }
}
