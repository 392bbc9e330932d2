//! Builds a machine that goes on from a saved one: the recipe.
//!
//! Its memory is a private mapping of the saved machine's file: a page is copied when this guest writes it, and
//! not before, so the time that it takes does not grow with the memory.

use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::os::fd::OwnedFd;

use crate::control::StartTimes;
use crate::kvm::{self, restore};
use crate::machine::{BuildError, Devices, Machine, Parts};
use crate::memory;
use crate::seccomp;
use crate::snapshot::{MAX_BYTES, Snapshot, SnapshotError};
use crate::spec::SavedSpec;
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

/// Builds the machine.
///
/// # Errors
/// The first step that fails; nothing has run in the guest then.
pub fn build(
    spec: SavedSpec,
    descriptors: Descriptors,
    mut times: StartTimes,
) -> Result<Machine, BuildError> {
    let Descriptors { kvm, memory, mut state, serial, shared } = descriptors;
    spec.vm.validate()?;
    let snapshot = read(&mut state)?;
    let memory = memory::map_private(&memory, spec.vm.memory_bytes())?;

    let host = kvm::Host::new(kvm)?;
    let count = Devices::count(shared.is_some());
    let cpuid = host.boot_cpuid(spec.vm.vcpus);
    snapshot.check_fits(&spec.vm, &spec.fingerprint, &cpuid, count)?;
    // Memory slots first, then the interrupt controller, event descriptors last (see `crate::kvm`).
    let vm = host.create_vm(&memory)?;
    let vcpus = host.create_vcpus(&vm, spec.vm.vcpus)?;
    if let Some(boot) = vcpus.first() {
        host.check_can_save(boot)?;
    }
    times.kvm_ns = sys::monotonic_ns();

    let body = snapshot.body;
    restore::vcpus(&vcpus, &body.vcpus, body.tsc_khz)?;
    restore::machine(&vm, &body.vm)?;
    let devices = Devices::connect(&vm, shared, &memory)?;
    devices.take_states(&body.devices)?;
    times.loaded_ns = sys::monotonic_ns();

    let parts = Parts { spec: spec.vm, vm, vcpus, savable: None, devices, serial, times };
    Machine::assemble(parts, seccomp::confine_vcpu)
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
