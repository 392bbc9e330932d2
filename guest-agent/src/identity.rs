//! What makes a machine that goes on from a saved one another than that: randomness and time of its own.
//!
//! Until then every such machine has the same kernel with the same random numbers to come; so nothing else is done
//! before. Agents that it was saved with stand still until then; what random numbers they had drawn themselves they keep. Its
//! boot id the kernel makes of the new randomness: it does so when somebody first asks for it. A template had nobody who
//! did; a machine that was saved in mid-work may go on with the same one.

use cloister_protocol::message::Identity;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::time::{ClockId, Timespec};

use crate::sys;

const RANDOM: &str = "/dev/random";

/// Why it could not be done. The machine must not go on then.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IdentityError {
    #[error("opening {RANDOM}")]
    Open(#[source] Errno),
    #[error("giving the kernel new randomness")]
    Entropy(#[source] Errno),
    #[error("setting the wall clock")]
    Clock(#[source] Errno),
}

/// Takes all of it in.
pub(crate) fn take_in(identity: &Identity) -> Result<(), IdentityError> {
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let random = rustix::fs::open(RANDOM, flags, Mode::empty()).map_err(IdentityError::Open)?;
    sys::add_entropy(&random, &identity.entropy).map_err(IdentityError::Entropy)?;
    rustix::time::clock_settime(ClockId::Realtime, wall_clock(identity.wall_ns))
        .map_err(IdentityError::Clock)
}

fn wall_clock(wall_ns: u64) -> Timespec {
    const SECOND: u64 = 1_000_000_000;
    // 64 bits of nanoseconds are 584 years of seconds.
    let seconds = i64::try_from(wall_ns / SECOND).unwrap_or(i64::MAX);
    Timespec { tv_sec: seconds, tv_nsec: i64::try_from(wall_ns % SECOND).unwrap_or(0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nanoseconds_become_a_time() {
        for (wall_ns, seconds, rest) in
            [(0, 0, 0), (1_999_999_999, 1, 999_999_999), (u64::MAX, 18_446_744_073, 709_551_615)]
        {
            assert_eq!(wall_clock(wall_ns), Timespec { tv_sec: seconds, tv_nsec: rest });
        }
    }
}
