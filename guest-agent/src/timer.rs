//! A command's time limit.

use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::io::Result;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

/// A descriptor that becomes readable once, after `delay`, which is not zero.
pub(crate) fn start(delay: Duration) -> Result<OwnedFd> {
    let timer =
        timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
    let never = Timespec { tv_sec: 0, tv_nsec: 0 };
    let once = Itimerspec {
        it_interval: never,
        // The protocol's limit is 30 days; what does not fit would never be reached.
        it_value: Timespec::try_from(delay)
            .unwrap_or(Timespec { tv_sec: i64::from(i32::MAX), tv_nsec: 0 }),
    };
    timerfd_settime(&timer, TimerfdTimerFlags::empty(), &once)?;
    Ok(timer)
}
