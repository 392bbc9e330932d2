//! Builds a machine: the recipe, in the order that KVM wants.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kvm_ioctls::{Error as Errno, VcpuFd, VmFd};
use vm_memory::{GuestMemoryError, GuestMemoryMmap};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::bus::{Bus, SharedDevice};
use crate::control::StartTimes;
use crate::devices::generation;
use crate::devices::serial::SerialLog;
use crate::devices::virtio::saved::{DeviceState, StateFault};
use crate::devices::virtio::{Balloon, Device, Fs, Rng, Transport, Vsock};
use crate::exit::ExitCode;
use crate::kernel::{self, ImageError};
use crate::kvm::{self, KvmError, Line};
use crate::memory::{self, Giver, MemoryError};
use crate::seccomp;
use crate::snapshot::SnapshotError;
use crate::snapshot::take::Savable;
use crate::spec::{SavedSpec, SpecError, VmSpec};
use crate::sys;
use crate::vcpu::{Report, Surroundings, Vcpus};
use crate::x86_64::{acpi, boot_params, registers};

/// virtio-mmio devices that every machine has, in the order of their registers: vsock, rng, balloon. Behind them, where there
/// are shared directories, theirs.
const DEVICES: u32 = 3;

/// What confines a thread.
type Confine = fn() -> io::Result<()>;

/// Why a machine could not be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The spec is out of bounds.
    #[error("machine spec")]
    Spec(#[from] SpecError),
    /// Guest memory.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// KVM.
    #[error("KVM")]
    Kvm(#[from] KvmError),
    /// Kernel or root image.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The saved machine can't be used here.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// A device of the saved machine is in no possible state.
    #[error("saved machine: device")]
    Device(#[from] StateFault),
    /// Boot tables did not fit.
    #[error("writing boot tables")]
    Tables(#[source] GuestMemoryError),
    /// The boot vCPU's state.
    #[error("setting up the boot vCPU")]
    BootVcpu(#[source] Errno),
    /// A descriptor or thread could not be made.
    #[error("{step}")]
    System {
        /// What was tried.
        step: &'static str,
        /// Its error.
        #[source]
        source: io::Error,
    },
}

impl BuildError {
    pub(crate) fn system(step: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::System { step, source }
    }

    /// Who is at fault, as the exit status says it.
    #[must_use]
    pub fn code(&self) -> ExitCode {
        match self {
            Self::Spec(_) => ExitCode::Spec,
            Self::Snapshot(_) | Self::Device(_) => ExitCode::Snapshot,
            Self::Kvm(KvmError::Rate { .. } | KvmError::Chip { .. }) => ExitCode::Snapshot,
            Self::Image(_) => ExitCode::Image,
            Self::Kvm(
                KvmError::Version { .. } | KvmError::Missing { .. } | KvmError::Counter { .. },
            ) => ExitCode::Kvm,
            Self::Kvm(KvmError::Vcpus { .. }) => ExitCode::Spec,
            _ => ExitCode::Host,
        }
    }
}

/// The descriptors of [`crate::control::Command::Start`].
#[derive(Debug)]
pub struct Descriptors {
    /// `/dev/kvm`.
    pub kvm: OwnedFd,
    /// Guest memory.
    pub memory: File,
    /// The kernel.
    pub kernel: File,
    /// The root image.
    pub root: File,
    /// The serial log.
    pub serial: File,
    /// Bounce area and socket of the shared directories, if there are any.
    pub shared: Option<(File, OwnedFd)>,
}

impl Descriptors {
    /// In the order of the message; `None`: neither five nor seven.
    #[must_use]
    pub fn from_message(mut descriptors: Vec<OwnedFd>) -> Option<Self> {
        let shared = match descriptors.len() {
            7 => {
                let server = descriptors.pop()?;
                Some((descriptors.pop()?.into(), server))
            }
            _ => None,
        };
        let [kvm, memory, kernel, root, serial] = descriptors.try_into().ok()?;
        Some(Self {
            kvm,
            memory: memory.into(),
            kernel: kernel.into(),
            root: root.into(),
            serial: serial.into(),
            shared,
        })
    }
}

/// The virtio devices, in the order of their registers.
#[derive(Debug)]
pub struct Devices {
    /// The way to the host.
    pub vsock: Arc<Mutex<Transport<Vsock>>>,
    /// Entropy.
    pub rng: Arc<Mutex<Transport<Rng>>>,
    /// The way of free memory back to the host.
    pub balloon: Arc<Mutex<Transport<Balloon>>>,
    /// Shared directories, if there are any.
    pub fs: Option<Arc<Mutex<Transport<Fs>>>>,
}

impl Devices {
    /// How many a machine has.
    #[must_use]
    pub fn count(shared: bool) -> usize {
        DEVICES as usize + usize::from(shared)
    }

    /// Makes them and connects them to the VM. Comes last of what KVM is told. `giver` is of this memory.
    ///
    /// # Errors
    /// One can't be made or connected.
    pub fn connect(
        vm: &Arc<VmFd>,
        shared: Option<(File, OwnedFd)>,
        memory: &GuestMemoryMmap,
        giver: Giver,
    ) -> Result<Self, BuildError> {
        let vsock = connect(vm, 0, Vsock::new(), memory)?;
        let rng = connect(vm, 1, Rng::new(), memory)?;
        let balloon = connect(vm, 2, Ok(Balloon::new(giver)), memory)?;
        let fs = shared.map(|(area, server)| connect(vm, DEVICES, Fs::new(area, server), memory));
        Ok(Self { vsock, rng, balloon, fs: fs.transpose()? })
    }

    /// Their states, while nobody works on them.
    ///
    /// # Errors
    /// A device has requests under way.
    pub fn states(&self) -> Result<Vec<DeviceState>, StateFault> {
        let mut states = vec![lock(&self.vsock).state()?, lock(&self.rng).state()?];
        states.push(lock(&self.balloon).state()?);
        if let Some(fs) = &self.fs {
            states.push(lock(fs).state()?);
        }
        Ok(states)
    }

    /// Puts them into the states of another machine's, whose connections are not theirs.
    ///
    /// # Errors
    /// A state is none that there can be.
    pub fn take_states(&self, states: &[DeviceState]) -> Result<(), StateFault> {
        let mut states = states.iter();
        let mut take = |take: &mut dyn FnMut(&DeviceState) -> Result<(), StateFault>| {
            states.next().map_or(Ok(()), take)
        };
        let mut vsock = lock(&self.vsock);
        take(&mut |state| vsock.take_state(state))?;
        vsock.begin_anew();
        take(&mut |state| lock(&self.rng).take_state(state))?;
        take(&mut |state| lock(&self.balloon).take_state(state))?;
        match &self.fs {
            Some(fs) => take(&mut |state| lock(fs).take_state(state)),
            None => Ok(()),
        }
    }

    fn shared(&self) -> Vec<SharedDevice> {
        let (vsock, rng) = (Arc::clone(&self.vsock), Arc::clone(&self.rng));
        let balloon = Arc::clone(&self.balloon);
        let mut devices = vec![vsock as SharedDevice, rng as SharedDevice, balloon as SharedDevice];
        devices.extend(self.fs.iter().map(|fs| Arc::clone(fs) as SharedDevice));
        devices
    }
}

/// Locks a device.
pub fn lock<D: Device>(device: &Arc<Mutex<Transport<D>>>) -> MutexGuard<'_, Transport<D>> {
    device.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A machine that is built and has not run yet.
#[derive(Debug)]
pub struct Machine {
    /// What it was built from.
    pub spec: VmSpec,
    /// Its vCPU threads, paused.
    pub vcpus: Vcpus,
    /// What the vCPU threads report.
    pub reports: Receiver<Report>,
    /// Readable when there are reports.
    pub wake: Arc<EventFd>,
    /// Where guest accesses go.
    pub bus: Arc<Bus>,
    /// Its devices.
    pub devices: Devices,
    /// The stages so far.
    pub times: StartTimes,
    /// For a machine that can be saved.
    pub savable: Option<Savable>,
    /// Of a rehearsal: the sizes of its memory slots, in bytes.
    pub noted: Option<Vec<u64>>,
    /// The VM; closing it early would only cost time.
    pub vm: Arc<VmFd>,
}

/// Builds the machine of `spec`; `prepared`: by [`crate::control::Command::Prepare`].
///
/// # Errors
/// The first step that fails; nothing has run in the guest then.
pub fn build(
    spec: VmSpec,
    descriptors: Descriptors,
    prepared: Option<kvm::Host>,
    times: StartTimes,
) -> Result<Machine, BuildError> {
    boot(spec, None, descriptors, prepared, times)
}

/// The same for a machine that can be saved.
///
/// # Errors
/// As [`build`]; also what this host's KVM lacks for it.
pub fn build_savable(
    spec: &SavedSpec,
    descriptors: Descriptors,
    prepared: Option<kvm::Host>,
    times: StartTimes,
) -> Result<Machine, BuildError> {
    boot(spec.vm.clone(), Some(spec), descriptors, prepared, times)
}

fn boot(
    spec: VmSpec,
    saved: Option<&SavedSpec>,
    descriptors: Descriptors,
    prepared: Option<kvm::Host>,
    mut times: StartTimes,
) -> Result<Machine, BuildError> {
    let Descriptors { kvm, memory, kernel: mut kernel_file, root: mut root_file, serial, shared } =
        descriptors;
    spec.validate()?;
    let file = memory;
    let memory = memory::map(&file, spec.memory_bytes())?;

    // Memory slots first, then the interrupt controller, event descriptors last (see `crate::kvm`).
    let host = prepared.map_or_else(|| kvm::Host::new(kvm), Ok)?;
    let vm = Arc::new(host.create_vm(&memory)?);
    let vcpus = host.create_vcpus(&vm, spec.vcpus)?;
    times.kvm_ns = sys::monotonic_ns();

    let loaded = kernel::load(&memory, &spec, &mut kernel_file, &mut root_file)?;
    acpi::write(&memory, spec.vcpus, DEVICES + u32::from(shared.is_some()))
        .map_err(BuildError::Tables)?;
    generation::renew(&memory).map_err(BuildError::system("drawing a generation id"))?;
    boot_params::write(&memory, spec.memory_bytes(), loaded.root).map_err(BuildError::Tables)?;
    times.loaded_ns = sys::monotonic_ns();

    let devices = Devices::connect(&vm, shared, &memory, Giver::own(&memory))?;
    let mut savable = None;
    if let Some(boot) = vcpus.first() {
        times.tsc_khz = boot.get_tsc_khz().map_err(BuildError::BootVcpu)?;
        times.tsc = registers::read_tsc(boot).map_err(BuildError::BootVcpu)?;
        times.tsc_ns = sys::monotonic_ns();
    }
    if let Some(boot) = vcpus.first() {
        registers::set_pvh_entry(boot, loaded.entry).map_err(BuildError::BootVcpu)?;
        savable =
            saved.map(|saved| Savable::new(&host, boot, saved, (&memory, file))).transpose()?;
    }
    let confine = match savable {
        None => seccomp::confine_vcpu,
        Some(_) => seccomp::confine_savable_vcpu,
    };
    let parts = Parts { spec, vm, vcpus, savable, devices, serial, times };
    Machine::assemble(parts, confine)
}

impl Machine {
    /// The last steps of each recipe.
    ///
    /// # Errors
    /// A thread or descriptor can't be made.
    pub(crate) fn assemble(parts: Parts, confine: Confine) -> Result<Self, BuildError> {
        let Parts { spec, vm, vcpus, savable, devices, serial, times } = parts;
        let bus = Arc::new(Bus::new(SerialLog::new(serial), devices.shared()));
        let (sender, reports) = channel();
        let wake = Arc::new(event_descriptor()?);
        let surroundings = Surroundings {
            bus: Arc::clone(&bus),
            reports: sender,
            wake: Arc::clone(&wake),
            msrs: savable.as_ref().map(|savable| Arc::clone(&savable.msrs)).unwrap_or_default(),
        };
        let vcpus = Vcpus::start(vcpus, &surroundings, confine)
            .map_err(BuildError::system("starting vCPU threads"))?;
        Ok(Self { spec, vcpus, reports, wake, bus, devices, times, savable, noted: None, vm })
    }
}

/// What a machine is put together from.
pub(crate) struct Parts {
    pub(crate) spec: VmSpec,
    pub(crate) vm: Arc<VmFd>,
    pub(crate) vcpus: Vec<VcpuFd>,
    pub(crate) savable: Option<Savable>,
    pub(crate) devices: Devices,
    pub(crate) serial: File,
    pub(crate) times: StartTimes,
}

/// Makes a device's transport and connects it to the VM.
fn connect<D: Device>(
    vm: &Arc<VmFd>,
    index: u32,
    device: io::Result<D>,
    memory: &GuestMemoryMmap,
) -> Result<Arc<Mutex<Transport<D>>>, BuildError> {
    let device = device.map_err(BuildError::system("making a device"))?;
    let transport = Transport::new(device, memory.clone(), Line::of_device(vm, index))
        .map_err(BuildError::system("making a device's descriptors"))?;
    kvm::connect_device(vm, index, transport.queue_events())?;
    Ok(Arc::new(Mutex::new(transport)))
}

fn event_descriptor() -> Result<EventFd, BuildError> {
    EventFd::new(EFD_NONBLOCK).map_err(BuildError::system("eventfd"))
}
