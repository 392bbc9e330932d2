//! How far the start of a machine has come, and when each stage was reached.

use cloister_vmm::control::StartTimes;
use rustix::time::{ClockId, clock_gettime};

/// The stages of a start, in order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Nothing but the file server may run, and it does not serve all shares yet.
    #[default]
    Prepared,
    /// The vmm's process runs.
    Spawned,
    /// The machine is built and its vCPUs run.
    Running,
    /// The supervisor has connected.
    Connected,
    /// The supervisor has said hello, and the versions are the same.
    Ready,
}

impl std::fmt::Display for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Prepared => "its jails and shares were not ready yet",
            Self::Spawned => "cloister-vmm had not built it yet",
            Self::Running => "its kernel ran, and the supervisor had not connected yet",
            Self::Connected => "the supervisor had connected, and not said hello yet",
            Self::Ready => "the supervisor was ready",
        })
    }
}

/// When each stage of a start was reached: `CLOCK_MONOTONIC`, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StartReport {
    /// Before anything was checked or opened.
    pub begin_ns: u64,
    /// Just before the vmm's process was made, or handed over by the pool.
    pub spawn_ns: u64,
    /// Whether it comes from a pool: then its process had begun long before.
    pub is_pooled: bool,
    /// The start message had been sent.
    pub sent_ns: u64,
    /// The vmm's own stages.
    pub vmm: StartTimes,
    /// The supervisor's connection arrived.
    pub connected_ns: u64,
    /// The supervisor's hello arrived.
    pub ready_ns: u64,
    /// The boot vCPU's time-stamp counter when the supervisor's `main` began.
    pub supervisor_start_tsc: u64,
    /// The same just before it sent its hello.
    pub supervisor_ready_tsc: u64,
}

/// The clock of a [`StartReport`].
#[must_use]
pub fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    // The clock counts from the host's boot, so neither part is ever negative.
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let nanoseconds = u64::try_from(now.tv_nsec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds)
}
