//! Messages between the host and the vmm, one per packet on a seqpacket Unix socket.
//!
//! Each message is its postcard encoding, at most [`MAX_MESSAGE`] bytes, with the descriptors that
//! its variant names (`SCM_RIGHTS`) in that order and no others. The first message is
//! one that starts a machine or [`Command::Probe`], perhaps with [`Command::Prepare`] before it; the vmm opens nothing.
//!
//! Streams: each vsock connection is one Unix stream socket that the host made and handed over. The
//! vmm moves bytes between it and the guest and never looks at them. End of file travels as a half
//! close in both directions; a reset closes the descriptor.

use serde::{Deserialize, Serialize};

use crate::exit::Exit;
use crate::spec::{SavedSpec, VmSpec, WorkingSet};

/// Largest message, in bytes: the longest is a fork, with a list of pages of up to 3.5 KiB and a command line of 1.
pub const MAX_MESSAGE: usize = 8 << 10;
/// Longest [`Exit::detail`] and [`ProbeReport::detail`], in bytes; the vmm cuts longer ones.
pub const MAX_DETAIL: usize = 4 << 10;
/// Most descriptors in one message: what [`Command::StartShared`] carries.
pub const MAX_DESCRIPTORS: usize = 7;
/// The descriptor on which the vmm finds its end of the control socket.
pub const CONTROL_FD: i32 = 3;
/// The guest's context id on vsock; every machine has its own device, so all can share it.
pub const GUEST_CID: u64 = 3;
/// The host's context id on vsock.
pub const HOST_CID: u64 = 2;

/// Host to vmm.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Build and run a machine. Descriptors: `/dev/kvm`; guest memory (a memfd sealed against
    /// resizing, of exactly the spec's size); kernel (ELF); root (initramfs); serial log (write end,
    /// only ever written without waiting; what does not fit is dropped and counted).
    Start(VmSpec),
    /// Run the probe guest and end. Descriptor: `/dev/kvm`. Answer: [`Event::Probed`].
    Probe,
    /// Take every vCPU out of the guest and keep it out; of a machine that can be saved also wait until the file server
    /// has answered every request. Answer: [`Event::Paused`].
    Pause,
    /// Undo [`Command::Pause`]. Answer: [`Event::Resumed`].
    Resume,
    /// End the machine. Answer: [`Event::Exited`].
    Stop,
    /// Answer: [`Event::Stats`].
    Stats,
    /// Connect a stream to a port on which the guest listens. Descriptor: the stream. Answer:
    /// [`Event::Connected`] or [`Event::Refused`] with the same id.
    Connect {
        /// The host's name for the connection, not in use.
        id: u32,
        /// The guest's port.
        port: u32,
    },
    /// Let a guest's connection in. Descriptor: the stream.
    Accept {
        /// The id of [`Event::Incoming`].
        id: u32,
    },
    /// Refuse a guest's connection; the guest sees a reset.
    Refuse {
        /// The id of [`Event::Incoming`].
        id: u32,
    },
    /// As [`Command::Start`], for a machine with shared directories. Two further descriptors: the bounce
    /// area (a memfd sealed against resizing, of `SHARE_SLOTS * SHARE_SLOT_BYTES`); the socket to the
    /// file server.
    StartShared(VmSpec),
    /// As [`Command::Start`] and [`Command::StartShared`], for a machine that can be saved: its threads may
    /// read KVM's state of it, which those of other machines may not. With the device of shared directories
    /// two descriptors more. The socket may have nobody at its other end.
    StartSavable(SavedSpec),
    /// Save the machine, which is paused and was started to be savable. Descriptor: a pipe that is
    /// read meanwhile (in a jail no file can be written), which gets everything but the memory
    /// ([`crate::snapshot`]) and then its end. Answer: [`Event::Saved`]. Of a [`Command::Rehearse`] it gets the
    /// [`WorkingSet`] of the pages that were written, in postcard.
    Save,
    /// The same with the memory. Descriptors: the pipe of [`Command::Save`]; another, read meanwhile too, which gets the
    /// memory as [`crate::extents`] tell it, and then its end. Answer: [`Event::Saved`]. Not of a [`Command::Rehearse`].
    SaveWhole,
    /// Go on from a saved machine. Descriptors: `/dev/kvm`; its memory (a file that can't be written by
    /// this descriptor, or a memfd sealed against writing and resizing), which is never changed; what
    /// [`Command::Save`] wrote; serial log; with the device of shared directories the two of
    /// [`Command::StartShared`]. The pages of the list are copied before the guest runs, all at once.
    Fork(SavedSpec, WorkingSet),
    /// As [`Command::Fork`], for a machine that can be saved again.
    ForkSavable(SavedSpec, WorkingSet),
    /// As [`Command::Fork`], to find out which pages such a machine writes: KVM notes them.
    Rehearse(SavedSpec),
    /// Make what a machine of any shape needs of KVM; what that machine is comes with the next message, and `/dev/kvm` once
    /// more with it, which is not used then. Descriptor: `/dev/kvm`. No answer.
    Prepare,
}

/// Vmm to host. Hostile after start: the host bounds and checks all of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// The machine is built and its vCPUs run; with the time stamps of the stages.
    Running(StartTimes),
    /// Answer to [`Command::Probe`].
    Probed(ProbeReport),
    /// Every vCPU is out of the guest, and a machine that can be saved is ready for it.
    Paused,
    /// Every vCPU runs again.
    Resumed,
    /// Answer to [`Command::Save`] and [`Command::SaveWhole`]: the file is written, and so is the memory.
    Saved {
        /// The file's length.
        bytes: u64,
    },
    /// Answer to [`Command::Stats`].
    Stats(Stats),
    /// The guest took the connection.
    Connected {
        /// From [`Command::Connect`].
        id: u32,
    },
    /// The guest did not take the connection (nobody listens, or no room); the stream is closed.
    Refused {
        /// From [`Command::Connect`].
        id: u32,
    },
    /// The guest connects to a port of the host; answer with [`Command::Accept`] or
    /// [`Command::Refuse`].
    Incoming {
        /// The vmm's name for the connection.
        id: u32,
        /// The host's port.
        port: u32,
    },
    /// The machine has ended; the process exits with the same code.
    Exited(Exit),
}

/// When each stage of a start was reached: `CLOCK_MONOTONIC`, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartTimes {
    /// `main` was entered.
    pub process_ns: u64,
    /// The start message was read.
    pub command_ns: u64,
    /// VM, memory, interrupt controller and vCPUs exist.
    pub kvm_ns: u64,
    /// Kernel, root and boot tables lie in guest memory.
    pub loaded_ns: u64,
    /// The boot vCPU's time-stamp counter was read.
    pub tsc_ns: u64,
    /// What it was then.
    pub tsc: u64,
    /// The rate of that counter, in kHz.
    pub tsc_khz: u32,
    /// The first `KVM_RUN` of the boot vCPU was about to be made.
    pub run_ns: u64,
}

/// What the probe guest showed of this host's KVM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeReport {
    /// Whether a Linux guest can run here.
    pub verdict: ProbeVerdict,
    /// How long the probe guest took, in microseconds, with building its VM.
    pub duration_us: u64,
    /// What was seen, for a person.
    pub detail: String,
}

/// Can this KVM run a Linux guest?
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProbeVerdict {
    /// The guest code ran on the processor as it should.
    Hardware,
    /// Guest ring 0 is interpreted, and the interpreter can't do all that a kernel needs.
    Interpreted,
    /// The probe could not be run to an end.
    Broken,
}

/// Counters of a running machine. Cumulative since the start unless said otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// Exits to the vmm, all vCPUs.
    pub exits: u64,
    /// Of those: reads and writes of device registers.
    pub mmio_exits: u64,
    /// Of those: port reads and writes.
    pub port_exits: u64,
    /// Device register accesses that no correct driver makes; each was ignored.
    pub rejected_accesses: u64,
    /// Open vsock connections, now.
    pub connections: u32,
    /// Bytes that the guest sent on vsock.
    pub vsock_from_guest_bytes: u64,
    /// Bytes that the guest was sent on vsock.
    pub vsock_to_guest_bytes: u64,
    /// Vsock packets from the guest that were dropped or answered with a reset.
    pub vsock_rejected: u64,
    /// Bytes of entropy that the guest drew.
    pub entropy_bytes: u64,
    /// Bytes of memory that the guest had no use for and that went back to the host; those that it used and gave again are
    /// counted again.
    pub given_back_bytes: u64,
    /// Bytes of the serial log that were dropped by its rate limit or a full pipe.
    pub serial_dropped_bytes: u64,
}
