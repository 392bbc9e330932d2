//! When a measurement begins: on a quiet machine, and not always at the same moment of its timer's tick.

use cloister::machine::now_ns;
use rustix::io::Errno;
use rustix::thread::clock_nanosleep_absolute;
use rustix::time::{ClockId, Timespec};

/// How long a machine is left alone before a measurement. What the end of a virtual machine leaves to
/// the kernel to do later (grace periods, freed memory) takes a few timer ticks; a machine that starts
/// in the middle of that waits less, or more, than one that starts on a quiet host.
const SETTLE_NS: u64 = 80_000_000;
/// A multiple of the period of every usual timer tick (1, 4 and 10 ms).
const TICKS_NS: u64 = 20_000_000;
/// The golden ratio's fraction of [`TICKS_NS`]: its multiples are spread evenly, however many.
const STRIDE_NS: u64 = 12_360_680;

/// Waits until this machine is quiet, and then for a moment that depends on `round` only.
///
/// Some waits in the kernel end at a timer tick. Measurements that follow each other would all begin
/// at the same distance from one, since the end of the last also waited for it; these begin evenly
/// spread over the time between two, and each subject of a round at the same.
pub fn settle(round: u64) {
    let phase = round.wrapping_mul(STRIDE_NS) % TICKS_NS;
    let quiet = now_ns() + SETTLE_NS;
    let start = quiet.next_multiple_of(TICKS_NS) + phase;
    let until = Timespec {
        tv_sec: i64::try_from(start / 1_000_000_000).unwrap_or(i64::MAX),
        tv_nsec: i64::try_from(start % 1_000_000_000).unwrap_or(0),
    };
    while clock_nanosleep_absolute(ClockId::Monotonic, &until) == Err(Errno::INTR) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_are_spread_over_every_tick() {
        for tick in [1_000_000, 4_000_000, 10_000_000] {
            let mut phases: Vec<_> =
                (0..10).map(|round| round * STRIDE_NS % TICKS_NS % tick).collect();
            phases.sort_unstable();
            let gaps = phases.windows(2).filter_map(|pair| Some(pair.last()? - pair.first()?));
            assert!(gaps.max().unwrap() < tick / 4, "{tick}: {phases:?}");
        }
    }

    #[test]
    fn it_settles_for_the_time_it_says() {
        let begin = now_ns();
        settle(3);
        let waited = now_ns() - begin;
        assert!(waited >= SETTLE_NS, "{waited}");
    }
}
