//! Takes a machine's state while it is paused: what a savable machine keeps for it, and putting it together.

use std::fs::File;
use std::io::Write as _;
use std::sync::Arc;

use kvm_bindings::kvm_cpuid_entry2;
use kvm_ioctls::VcpuFd;
use vm_memory::GuestMemoryMmap;

use super::whole::Whole;
use super::{Body, Snapshot, SnapshotError};
use crate::devices::virtio::saved::StateFault;
use crate::kvm::saved::{VcpuState, VmState};
use crate::kvm::{Host, KvmError};
use crate::machine::Machine;
use crate::spec::{FINGERPRINT_BYTES, SavedSpec};
use crate::x86_64::msrs;

/// What has to be asked for before the guest runs, while all of KVM may still be used.
#[derive(Debug)]
pub struct Savable {
    fingerprint: [u8; FINGERPRINT_BYTES],
    tsc_khz: u32,
    cpuid: Vec<kvm_cpuid_entry2>,
    /// The model-specific registers that make up a vCPU's state.
    pub msrs: Arc<[u32]>,
    memory: Whole,
}

/// Why a machine could not be saved.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    /// KVM.
    #[error("KVM")]
    Kvm(#[from] KvmError),
    /// A device.
    #[error("device state")]
    Device(#[from] StateFault),
    /// It is out of bounds.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// A vCPU's thread did not say.
    #[error("vCPU {index} has no state")]
    Vcpu {
        /// Which.
        index: usize,
    },
    /// The file can't be written.
    #[error("writing the saved machine")]
    Write(#[source] std::io::Error),
    /// The memory can't be read, or not be written to where it goes.
    #[error("writing the saved machine's memory")]
    Memory(#[source] std::io::Error),
}

impl Savable {
    /// Asks for all of it, for a machine that boots. `boot` has not run yet. `memory` is the machine's, and lies in `file`.
    ///
    /// # Errors
    /// This host's KVM can't save machines.
    pub fn new(
        host: &Host,
        boot: &VcpuFd,
        spec: &SavedSpec,
        (memory, file): (&GuestMemoryMmap, File),
    ) -> Result<Self, KvmError> {
        host.check_can_save(boot)?;
        let tsc_khz = boot.get_tsc_khz().map_err(KvmError::ioctl("KVM_GET_TSC_KHZ"))?;
        let listed = host.listed_msrs()?;
        Ok(Self {
            fingerprint: spec.fingerprint,
            tsc_khz,
            cpuid: host.boot_cpuid(spec.vm.vcpus),
            msrs: msrs::savable(boot, &listed).into(),
            memory: Whole::shared(memory, file),
        })
    }

    /// The same of a machine that goes on from a saved one, which has said all of it. Nothing is asked: the registers were
    /// found out on a host with the same fingerprint and CPUID. `memory` is mapped by
    /// [`crate::memory::map_private_savable`].
    #[must_use]
    pub fn again(saved: &Snapshot, memory: &GuestMemoryMmap) -> Self {
        let body = &saved.body;
        let registers = body.vcpus.first().map(|vcpu| vcpu.msrs.as_slice()).unwrap_or_default();
        Self {
            fingerprint: saved.fingerprint,
            // The guest's own notion of it, so that it does not drift from host to host.
            tsc_khz: body.tsc_khz,
            cpuid: body.cpuid.clone(),
            msrs: registers.iter().map(|register| register.index).collect(),
            memory: Whole::private(memory),
        }
    }

    /// Writes the memory of a machine whose vCPUs and devices stand still.
    ///
    /// # Errors
    /// It can't be written.
    pub fn write_memory(&mut self, to: File) -> Result<(), SaveError> {
        self.memory.write(to).map_err(SaveError::Memory)
    }

    /// Writes the state of a machine whose vCPUs are out of the guest, and theirs; its length.
    ///
    /// # Errors
    /// KVM or a device can't tell its state, or the file can't be written.
    pub fn write(
        &self,
        machine: &Machine,
        vcpus: Vec<Option<Box<VcpuState>>>,
        mut file: File,
    ) -> Result<u64, SaveError> {
        let vcpus = vcpus.into_iter().enumerate();
        let vcpus = vcpus.map(|(index, state)| match state {
            Some(state) => Ok(*state),
            None => Err(SaveError::Vcpu { index }),
        });
        let body = Body {
            tsc_khz: self.tsc_khz,
            cpuid: self.cpuid.clone(),
            vcpus: vcpus.collect::<Result<_, _>>()?,
            vm: VmState::read(&machine.vm)?,
            devices: machine.devices.states()?,
        };
        let memory_bytes = machine.spec.memory_bytes();
        let snapshot = Snapshot { fingerprint: self.fingerprint, memory_bytes, body };
        let bytes = snapshot.encode()?;
        file.write_all(&bytes).map_err(SaveError::Write)?;
        Ok(bytes.len() as u64)
    }
}
