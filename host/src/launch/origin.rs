//! How a machine comes to run, and the first message that says so to its vmm.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use cloister_vmm::control::Command;
use cloister_vmm::spec::{FINGERPRINT_BYTES, SavedSpec, VmSpec, WorkingSet};

use super::{LaunchError, fingerprint, memory};

/// How a machine comes to run.
#[derive(Clone, Debug)]
pub enum Origin {
    /// It boots.
    Boot,
    /// It boots and can be saved. Nobody greets its supervisor, which so does nothing yet.
    Savable {
        /// What this host says of itself.
        fingerprint: [u8; FINGERPRINT_BYTES],
        /// Guest memory, kept by who saves it.
        memory: Arc<OwnedFd>,
        /// Whether it has the device of shared directories, which nobody serves.
        shared: bool,
    },
    /// It goes on from a saved one.
    Fork(Arc<Saved>),
    /// It goes on from one that was saved in mid-work, with its shares. It can be saved again.
    Carried(Arc<Carried>),
    /// The same to find out which pages it writes.
    Rehearsal {
        /// What it goes on from.
        saved: Arc<Saved>,
        /// Whether it has the device of shared directories, which nobody serves.
        shared: bool,
    },
}

/// A saved machine, open.
#[derive(Debug)]
pub struct Saved {
    /// What the host said of itself when it was made.
    pub fingerprint: [u8; FINGERPRINT_BYTES],
    /// Its memory; only for reading.
    pub memory: OwnedFd,
    /// All else.
    pub state: OwnedFd,
    /// The pages of its memory that machines write at once.
    pub written: WorkingSet,
}

/// A machine that was saved in mid-work ([`crate::machine::Machine::save_whole`]), open.
#[derive(Debug)]
pub struct Carried {
    /// The machine. What this host says of itself now is held against what it said then, not against its own field.
    pub saved: Saved,
    /// What the file server knew, if there are shares.
    pub files: Option<Vec<u8>>,
}

/// What a supervisor's hello is answered with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Greeting {
    /// The host's hello.
    Plain,
    /// The same, with what makes the machine another than the saved one.
    Identity,
    /// Nothing.
    None,
}

/// The vmm's first message: the command, and its descriptors after `/dev/kvm` and before those of shares.
pub(super) struct First {
    pub(super) command: Command,
    pub(super) descriptors: Vec<OwnedFd>,
    pub(super) greeting: Greeting,
}

impl First {
    pub(super) fn of(
        origin: Origin,
        (vm, savable): (VmSpec, bool),
        shares: bool,
        images: Vec<OwnedFd>,
        console: OwnedFd,
    ) -> Result<Self, LaunchError> {
        let clone = |fd: &OwnedFd| fd.try_clone().map_err(LaunchError::Saved);
        Ok(match origin {
            Origin::Boot => {
                let memory = memory::guest_memory(vm.memory_bytes())?;
                let command = match (savable, shares) {
                    (true, shared) => {
                        let fingerprint = here()?;
                        Command::StartSavable(SavedSpec { vm, fingerprint, shared })
                    }
                    (false, true) => Command::StartShared(vm),
                    (false, false) => Command::Start(vm),
                };
                let descriptors = with_images(memory, images, console);
                Self { command, descriptors, greeting: Greeting::Plain }
            }
            Origin::Savable { fingerprint, memory, shared } => {
                let command = Command::StartSavable(SavedSpec { vm, fingerprint, shared });
                let descriptors = with_images(clone(&memory)?, images, console);
                Self { command, descriptors, greeting: Greeting::None }
            }
            Origin::Fork(saved) => {
                let fingerprint = saved.fingerprint;
                let spec = SavedSpec { vm, fingerprint, shared: shares };
                let written = saved.written.clone();
                let command = if savable {
                    Command::ForkSavable(spec, written)
                } else {
                    Command::Fork(spec, written)
                };
                let descriptors = vec![clone(&saved.memory)?, clone(&saved.state)?, console];
                Self { command, descriptors, greeting: Greeting::Identity }
            }
            Origin::Carried(carried) => {
                let Saved { memory, state, written, .. } = &carried.saved;
                let spec = SavedSpec { vm, fingerprint: here()?, shared: shares };
                let command = Command::ForkSavable(spec, written.clone());
                let descriptors = vec![clone(memory)?, clone(state)?, console];
                Self { command, descriptors, greeting: Greeting::Identity }
            }
            Origin::Rehearsal { saved, shared } => {
                let fingerprint = saved.fingerprint;
                let command = Command::Rehearse(SavedSpec { vm, fingerprint, shared });
                let descriptors = vec![clone(&saved.memory)?, clone(&saved.state)?, console];
                Self { command, descriptors, greeting: Greeting::Identity }
            }
        })
    }
}

/// What this host says of itself.
fn here() -> Result<[u8; FINGERPRINT_BYTES], LaunchError> {
    fingerprint::here().map_err(LaunchError::Host)
}

/// The descriptors of a machine that boots, in the order of the message.
fn with_images(memory: OwnedFd, images: Vec<OwnedFd>, console: OwnedFd) -> Vec<OwnedFd> {
    std::iter::once(memory).chain(images).chain([console]).collect()
}
