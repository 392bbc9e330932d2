//! Builds a machine: the recipe, in the order that KVM wants.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};

use kvm_ioctls::{Error as Errno, VmFd};
use vm_memory::{GuestMemoryError, GuestMemoryMmap};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::bus::{Bus, SharedDevice};
use crate::control::StartTimes;
use crate::devices::serial::SerialLog;
use crate::devices::virtio::{Device, Fs, Rng, Transport, Vsock};
use crate::exit::ExitCode;
use crate::kernel::{self, ImageError};
use crate::kvm::{self, KvmError};
use crate::memory::{self, MemoryError};
use crate::seccomp;
use crate::spec::{SpecError, VmSpec};
use crate::sys;
use crate::vcpu::{Report, Surroundings, Vcpus};
use crate::x86_64::{acpi, boot_params, registers};

/// virtio-mmio devices that every machine has, in the order of their registers: vsock, rng. Behind them,
/// where there are shared directories, theirs.
const DEVICES: u32 = 2;

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
    fn system(step: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::System { step, source }
    }

    /// Who is at fault, as the exit status says it.
    #[must_use]
    pub fn code(&self) -> ExitCode {
        match self {
            Self::Spec(_) => ExitCode::Spec,
            Self::Image(_) => ExitCode::Image,
            Self::Kvm(KvmError::Version { .. } | KvmError::Missing { .. }) => ExitCode::Kvm,
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
    /// The way to the host.
    pub vsock: Arc<Mutex<Transport<Vsock>>>,
    /// Entropy.
    pub rng: Arc<Mutex<Transport<Rng>>>,
    /// Shared directories, if there are any.
    pub fs: Option<Arc<Mutex<Transport<Fs>>>>,
    /// The stages so far.
    pub times: StartTimes,
    /// Keeps the VM; closing it early would only cost time.
    _vm: VmFd,
}

/// Builds the machine of `spec`.
///
/// # Errors
/// The first step that fails; nothing has run in the guest then.
pub fn build(
    spec: VmSpec,
    descriptors: Descriptors,
    mut times: StartTimes,
) -> Result<Machine, BuildError> {
    let Descriptors { kvm, memory, kernel: mut kernel_file, root: mut root_file, serial, shared } =
        descriptors;
    spec.validate()?;
    let memory = memory::map(&memory, spec.memory_bytes())?;

    // Memory slots first, then the interrupt controller, event descriptors last (see `crate::kvm`).
    let host = kvm::Host::new(kvm)?;
    let vm = host.create_vm(&memory)?;
    let vcpus = host.create_vcpus(&vm, spec.vcpus)?;
    times.kvm_ns = sys::monotonic_ns();

    let loaded = kernel::load(&memory, &spec, &mut kernel_file, &mut root_file)?;
    acpi::write(&memory, spec.vcpus, DEVICES + u32::from(shared.is_some()))
        .map_err(BuildError::Tables)?;
    boot_params::write(&memory, spec.memory_bytes(), loaded.root).map_err(BuildError::Tables)?;
    times.loaded_ns = sys::monotonic_ns();

    let vsock = connect(&vm, 0, Vsock::new(), &memory)?;
    let rng = connect(&vm, 1, Rng::new(), &memory)?;
    let fs = shared.map(|(area, server)| connect(&vm, DEVICES, Fs::new(area, server), &memory));
    let fs = fs.transpose()?;
    let mut devices = vec![Arc::clone(&vsock) as SharedDevice, Arc::clone(&rng) as SharedDevice];
    devices.extend(fs.iter().map(|fs| Arc::clone(fs) as SharedDevice));
    let bus = Arc::new(Bus::new(SerialLog::new(serial), devices));

    if let Some(boot) = vcpus.first() {
        registers::set_pvh_entry(boot, loaded.entry).map_err(BuildError::BootVcpu)?;
        times.tsc_khz = boot.get_tsc_khz().map_err(BuildError::BootVcpu)?;
        times.entry_tsc = registers::read_tsc(boot).map_err(BuildError::BootVcpu)?;
    }
    times.entry_ns = sys::monotonic_ns();

    let (sender, reports) = channel();
    let wake = Arc::new(event_descriptor()?);
    let surroundings =
        Surroundings { bus: Arc::clone(&bus), reports: sender, wake: Arc::clone(&wake) };
    let vcpus = Vcpus::start(vcpus, &surroundings, seccomp::confine_vcpu)
        .map_err(BuildError::system("starting vCPU threads"))?;
    Ok(Machine { spec, vcpus, reports, wake, bus, vsock, rng, fs, times, _vm: vm })
}

/// Makes a device's transport and connects it to the VM.
fn connect<D: Device>(
    vm: &VmFd,
    index: u32,
    device: io::Result<D>,
    memory: &GuestMemoryMmap,
) -> Result<Arc<Mutex<Transport<D>>>, BuildError> {
    let interrupt = event_descriptor()?;
    let for_kvm = interrupt.try_clone().map_err(BuildError::system("dup of an interrupt"))?;
    let device = device.map_err(BuildError::system("making a device"))?;
    let transport = Transport::new(device, memory.clone(), interrupt)
        .map_err(BuildError::system("making a device's descriptors"))?;
    kvm::connect_device(vm, index, &for_kvm, transport.queue_events())?;
    Ok(Arc::new(Mutex::new(transport)))
}

fn event_descriptor() -> Result<EventFd, BuildError> {
    EventFd::new(EFD_NONBLOCK).map_err(BuildError::system("eventfd"))
}
