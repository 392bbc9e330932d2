//! How a virtual machine ended: one table for the process's exit status and for the host.

use serde::{Deserialize, Serialize};

/// The vmm's exit status. Documented in `docs/exit-codes.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[repr(u8)]
pub enum ExitCode {
    /// The guest powered off, or the host asked for the stop.
    Stopped = 0,
    /// A system call on the host failed.
    Host = 1,
    /// The vmm was called wrongly, or the spec is out of bounds.
    Spec = 2,
    /// The kernel or the root image can't be used: not an ELF, truncated, no PVH note, too large.
    Image = 3,
    /// KVM lacks something that is needed, or its API version is wrong.
    Kvm = 4,
    /// The saved machine can't go on here: damaged, or of another host, processor, version or shape.
    Snapshot = 5,
    /// The guest asked for a reset.
    Reset = 10,
    /// Triple fault: the guest's processor gave up.
    TripleFault = 11,
    /// Every vCPU is halted with interrupts off: the guest can never run again.
    Halted = 12,
    /// KVM could not go on (internal error or failed entry).
    KvmInternal = 13,
    /// The guest kernel panicked.
    Panic = 14,
    /// The guest did something that no correct guest does (an exit that nothing here handles).
    GuestFault = 15,
    /// The host closed the control socket.
    HostGone = 16,
    /// The file server ended, or broke the protocol.
    FilesGone = 17,
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        Self::from(code as u8)
    }
}

/// How the virtual machine ended, with the particulars for a person.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// The kind.
    pub code: ExitCode,
    /// What exactly: an error chain or the exit's registers. At most
    /// [`crate::control::MAX_DETAIL`] bytes.
    pub detail: String,
}
