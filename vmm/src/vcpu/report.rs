//! What event loop and vCPU threads say to each other.

use crate::exit::Exit;
use crate::kvm::KvmError;
use crate::kvm::saved::VcpuState;

/// What the event loop wants of all vCPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Stay out of the guest.
    Pause,
    /// Run the guest.
    Run,
    /// End the thread.
    Stop,
}

/// What a vCPU thread tells the event loop.
#[derive(Debug)]
pub enum Report {
    /// It is out of the guest because that was wanted.
    Paused,
    /// It goes into the guest.
    Running {
        /// Which vCPU.
        index: usize,
        /// When, in nanoseconds of the monotonic clock.
        at_ns: u64,
    },
    /// Can it still do anything? Answer to [`Vcpus::look`].
    Looked {
        /// Which vCPU.
        index: usize,
        /// Halted with interrupts off, or never started.
        dead: bool,
    },
    /// Its state, or why it can't be had. Answer to [`Vcpus::save`].
    Saved {
        /// Which vCPU.
        index: usize,
        /// Its state.
        state: Result<Box<VcpuState>, KvmError>,
    },
    /// The machine has ended.
    Ended(Exit),
}
