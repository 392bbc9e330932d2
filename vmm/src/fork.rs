//! Builds a machine that goes on from a saved one: the recipe.
//!
//! Its memory is a private mapping of the saved machine's file: a page is copied when this guest writes it, so the
//! time that it takes does not grow with the memory. Pages of which it is known that the guest writes them at once are
//! copied beforehand: found out by the guest they cost twice that, as most are mapped for reading first and taken away
//! again, with an exit each time.

use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use vm_memory::{GuestMemory, GuestMemoryMmap, GuestMemoryRegion};

use crate::control::StartTimes;
use crate::devices::generation;
use crate::kvm::{self, restore};
use crate::machine::{BuildError, Devices, Machine, Parts};
use crate::memory::{self, Giver, PageMaker};
use crate::seccomp;
use crate::snapshot::take::Savable;
use crate::snapshot::{MAX_BYTES, Snapshot, SnapshotError};
use crate::spec::{SavedSpec, WorkingSet};
use crate::sys;

/// The descriptors of [`crate::control::Command::Fork`].
#[derive(Debug)]
pub struct Descriptors {
    /// `/dev/kvm`.
    pub kvm: OwnedFd,
    /// The saved machine's memory.
    pub memory: File,
    /// All else of it.
    pub state: File,
    /// The serial log.
    pub serial: File,
    /// Bounce area and socket of the shared directories, if there are any.
    pub shared: Option<(File, OwnedFd)>,
}

impl Descriptors {
    /// In the order of the message; `None`: neither four nor six.
    #[must_use]
    pub fn from_message(mut descriptors: Vec<OwnedFd>) -> Option<Self> {
        let shared = match descriptors.len() {
            6 => {
                let server = descriptors.pop()?;
                Some((descriptors.pop()?.into(), server))
            }
            _ => None,
        };
        let [kvm, memory, state, serial] = descriptors.try_into().ok()?;
        let (memory, state, serial) = (memory.into(), state.into(), serial.into());
        Some(Self { kvm, memory, state, serial, shared })
    }
}

/// What a machine goes on for.
#[derive(Debug)]
pub enum Purpose {
    /// To be used. It writes these pages at once.
    Use(WorkingSet),
    /// To be used and saved again. It writes these pages at once.
    Savable(WorkingSet),
    /// To find out which those are.
    Rehearsal,
}

/// Builds the machine; `prepared`: by [`crate::control::Command::Prepare`].
///
/// # Errors
/// The first step that fails; nothing has run in the guest then.
pub fn build(
    spec: SavedSpec,
    purpose: &Purpose,
    descriptors: Descriptors,
    prepared: Option<kvm::Host>,
    mut times: StartTimes,
) -> Result<Machine, BuildError> {
    let Descriptors { kvm, memory: mut file, mut state, serial, shared } = descriptors;
    spec.vm.validate()?;
    let snapshot = read(&mut state)?;
    let bytes = spec.vm.memory_bytes();
    let memory = match purpose {
        Purpose::Savable(_) => memory::map_private_savable(&mut file, bytes)?,
        Purpose::Use(_) | Purpose::Rehearsal => memory::map_private(&file, bytes)?,
    };
    generation::renew(&memory).map_err(BuildError::system("drawing a generation id"))?;
    if let Purpose::Use(written) | Purpose::Savable(written) = purpose {
        copy(written, &memory, bytes)?;
    }

    let host = prepared.map_or_else(|| kvm::Host::new(kvm), Ok)?;
    let count = Devices::count(shared.is_some());
    let cpuid = host.boot_cpuid(spec.vm.vcpus);
    snapshot.check_fits(&spec.vm, &spec.fingerprint, &cpuid, count)?;
    // Memory slots first, then the interrupt controller, event descriptors last (see `crate::kvm`).
    let vm = Arc::new(match purpose {
        Purpose::Use(_) | Purpose::Savable(_) => host.create_vm(&memory)?,
        Purpose::Rehearsal => host.create_noted_vm(&memory)?,
    });
    let vcpus = host.create_blank_vcpus(&vm, spec.vm.vcpus)?;
    if let Some(boot) = vcpus.first() {
        host.check_can_save(boot)?;
    }
    times.kvm_ns = sys::monotonic_ns();

    let savable =
        matches!(purpose, Purpose::Savable(_)).then(|| Savable::again(&snapshot, &memory));
    let confine = match savable {
        None => seccomp::confine_vcpu,
        Some(_) => seccomp::confine_savable_vcpu,
    };
    let body = snapshot.body;
    if let Some(counter) = restore::vcpus(&vcpus, &body.vcpus, body.tsc_khz)? {
        (times.tsc, times.tsc_khz, times.tsc_ns) = (counter.tsc, counter.khz, counter.at_ns);
    }
    restore::machine(&vm, &body.vm)?;
    let devices = Devices::connect(&vm, shared, &memory, Giver::saved(&memory))?;
    devices.take_states(&body.devices)?;
    generation::announce(&vm)?;
    times.loaded_ns = sys::monotonic_ns();

    let parts = Parts { spec: spec.vm, vm, vcpus, savable, devices, serial, times };
    let machine = Machine::assemble(parts, confine)?;
    let slots = || memory.iter().map(GuestMemoryRegion::len).collect();
    Ok(Machine { noted: matches!(purpose, Purpose::Rehearsal).then(slots), ..machine })
}

/// Copies pages. Comes before KVM knows of the memory: it would have to be told of each.
fn copy(
    written: &WorkingSet,
    memory: &GuestMemoryMmap,
    memory_bytes: u64,
) -> Result<(), BuildError> {
    written.validate(memory_bytes)?;
    let pages = PageMaker::new(memory);
    written.places().for_each(|place| pages.copy(&place));
    Ok(())
}

/// Reads what [`crate::control::Command::Save`] wrote.
fn read(file: &mut File) -> Result<Snapshot, BuildError> {
    let step = |source| BuildError::System { step: "reading the saved machine", source };
    let bytes = file.metadata().map_err(step)?.len();
    let length = usize::try_from(bytes).unwrap_or(usize::MAX);
    if length > MAX_BYTES {
        return Err(SnapshotError::Length { bytes: length }.into());
    }
    file.rewind().map_err(step)?;
    let mut content = vec![0; length];
    file.read_exact(&mut content).map_err(|source| match source.kind() {
        io::ErrorKind::UnexpectedEof => SnapshotError::Length { bytes: 0 }.into(),
        _ => step(source),
    })?;
    Ok(Snapshot::decode(&content)?)
}
