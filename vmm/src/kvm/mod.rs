//! The machine as KVM knows it: VM, memory slots, interrupt controller, vCPUs, event descriptors.
//!
//! The order is the fast one (and a rule): memory slots come before the interrupt controller, event
//! descriptors last. On Linux 6.18 a memory slot that is set just after the interrupt controller waits
//! for an SRCU grace period: 7.5 ms instead of 76 µs. Of a VM that was made beforehand ([`Host::prepared`]) that is long over.
#![expect(unsafe_code, reason = "memory slots hand host addresses to KVM")]

mod immediate_exit;

mod line;

pub mod saved;

pub mod restore;

mod offset;

pub use immediate_exit::ImmediateExit;
pub use line::{Line, pulse};
pub(crate) use saved::{read_msrs, write_msrs};

use std::cell::RefCell;
use std::os::fd::{IntoRawFd, OwnedFd};

use kvm_bindings::{
    CpuId, KVM_MAX_CPUID_ENTRIES, KVM_MEM_LOG_DIRTY_PAGES, kvm_cpuid_entry2,
    kvm_userspace_memory_region,
};
use kvm_ioctls::{Cap, Error as Errno, IoEventAddress, Kvm, VcpuFd, VmFd};
use std::os::fd::FromRawFd;
use vm_memory::{GuestMemory, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::devices::virtio::offset::{INTERRUPT_ACK, QUEUE_NOTIFY};
use crate::devices::virtio::registers::INTERRUPT_USED;
use crate::memory;
use crate::x86_64::{cpuid, layout, registers};

/// The only version of the API there has been since Linux 2.6.22.
const API_VERSION: i32 = 12;
/// What this vmm can't do without.
const NEEDED: [(Cap, &str); 6] = [
    (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
    (Cap::Irqchip, "KVM_CAP_IRQCHIP"),
    (Cap::Ioeventfd, "KVM_CAP_IOEVENTFD"),
    (Cap::ExtCpuid, "KVM_CAP_EXT_CPUID"),
    (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
    (Cap::GetTscKhz, "KVM_CAP_GET_TSC_KHZ"),
];

/// Why KVM could not be used.
#[derive(Debug, thiserror::Error)]
pub enum KvmError {
    /// Not KVM, or a KVM of another time.
    #[error("the KVM descriptor answers API version {got}, not {API_VERSION}: is it /dev/kvm?")]
    Version {
        /// What it answered.
        got: i32,
    },
    /// Something needed is missing.
    #[error("this host's KVM lacks {name}")]
    Missing {
        /// The capability's name in the KVM API.
        name: &'static str,
    },
    /// The host's KVM allows fewer vCPUs.
    #[error("{want} vCPUs: this host's KVM allows at most {most}")]
    Vcpus {
        /// What the spec asks for.
        want: usize,
        /// What KVM allows.
        most: usize,
    },
    /// A saved state was taken where the counter runs at another rate.
    #[error(
        "the saved machine's time-stamp counter runs at {saved_khz} kHz, this host's at {khz} kHz"
    )]
    Rate {
        /// Of the saved machine.
        saved_khz: u32,
        /// Of this host.
        khz: u32,
    },
    /// KVM did not take the value of a time-stamp counter.
    #[error(
        "this host's KVM did not take the saved time-stamp counter: it is {got} and not {wanted}"
    )]
    Counter {
        /// What was saved.
        wanted: u64,
        /// What was read after it was set.
        got: u64,
    },
    /// KVM returned other registers than were asked for.
    #[error("KVM returned other registers than were asked for")]
    Msrs,
    /// A saved state has an unknown interrupt controller.
    #[error("the saved machine has an interrupt controller {id}, which there is not")]
    Chip {
        /// Its number.
        id: u32,
    },
    /// The guest runs virtual machines of its own.
    #[error("the guest has switched on virtual machines of its own, whose state can't be saved")]
    Nested,
    /// No event descriptor could be made.
    #[error("eventfd")]
    Event(#[source] std::io::Error),
    /// An ioctl failed.
    #[error("{call}")]
    Ioctl {
        /// Its name.
        call: &'static str,
        /// Its error.
        #[source]
        source: Errno,
    },
}

impl KvmError {
    pub(crate) fn ioctl(call: &'static str) -> impl FnOnce(Errno) -> Self {
        move |source| Self::Ioctl { call, source }
    }
}

/// `/dev/kvm` as it was handed over, checked.
#[derive(Debug)]
pub struct Host {
    kvm: Kvm,
    cpuid: CpuId,
    /// Made beforehand: a VM, and with its interrupt controller the boot vCPU of a machine with one.
    vm: RefCell<Option<VmFd>>,
    boot: RefCell<Option<VcpuFd>>,
}

impl Host {
    /// Checks version and capabilities.
    ///
    /// # Errors
    /// It is not KVM, or too old.
    pub fn new(descriptor: OwnedFd) -> Result<Self, KvmError> {
        // SAFETY: ownership of the descriptor moves from `OwnedFd` to `Kvm`.
        let kvm = unsafe { Kvm::from_raw_fd(descriptor.into_raw_fd()) };
        let got = kvm.get_api_version();
        if got != API_VERSION {
            return Err(KvmError::Version { got });
        }
        for (capability, name) in NEEDED {
            if !kvm.check_extension(capability) {
                return Err(KvmError::Missing { name });
            }
        }
        let cpuid = kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(KvmError::ioctl("KVM_GET_SUPPORTED_CPUID"))?;
        Ok(Self { kvm, cpuid, vm: RefCell::new(None), boot: RefCell::new(None) })
    }

    /// The same, with the one VM that will be asked for, its interrupt controller and its boot vCPU: making them takes the
    /// kernel most of what a start from a saved machine waits for, and needs nothing of the machine.
    ///
    /// # Errors
    /// It is not KVM, or too old, or an ioctl's.
    pub fn prepared(descriptor: OwnedFd) -> Result<Self, KvmError> {
        let host = Self::new(descriptor)?;
        let vm = host.empty_vm()?;
        vm.create_irq_chip().map_err(KvmError::ioctl("KVM_CREATE_IRQCHIP"))?;
        let boot = host.create_vcpu(&vm, 0, 1)?;
        Ok(Self { vm: RefCell::new(Some(vm)), boot: RefCell::new(Some(boot)), ..host })
    }

    /// A VM without memory.
    fn empty_vm(&self) -> Result<VmFd, KvmError> {
        let vm = self.kvm.create_vm().map_err(KvmError::ioctl("KVM_CREATE_VM"))?;
        let tss = usize::try_from(layout::KVM_TSS).unwrap_or_default();
        vm.set_tss_address(tss).map_err(KvmError::ioctl("KVM_SET_TSS_ADDR"))?;
        Ok(vm)
    }

    /// The registers that KVM lists as a vCPU's state.
    ///
    /// # Errors
    /// The ioctl's.
    pub fn listed_msrs(&self) -> Result<Vec<u32>, KvmError> {
        let list =
            self.kvm.get_msr_index_list().map_err(KvmError::ioctl("KVM_GET_MSR_INDEX_LIST"))?;
        Ok(list.as_slice().to_vec())
    }

    /// What the boot vCPU of a machine with `count` vCPUs says of itself.
    #[must_use]
    pub fn boot_cpuid(&self, count: u8) -> Vec<kvm_cpuid_entry2> {
        cpuid::for_vcpu(&self.cpuid, 0, count).as_slice().to_vec()
    }

    /// A VM with its memory and nothing else.
    ///
    /// # Errors
    /// An ioctl's.
    pub fn create_vm(&self, memory: &GuestMemoryMmap) -> Result<VmFd, KvmError> {
        self.create_vm_with(memory, 0)
    }

    /// The same, of which KVM notes the pages that the guest writes, and those that it reads after the vmm has written
    /// them. On privately mapped memory it notes no others: a page that can be written KVM maps so at once, and notes.
    ///
    /// # Errors
    /// An ioctl's.
    pub fn create_noted_vm(&self, memory: &GuestMemoryMmap) -> Result<VmFd, KvmError> {
        self.create_vm_with(memory, KVM_MEM_LOG_DIRTY_PAGES)
    }

    fn create_vm_with(&self, memory: &GuestMemoryMmap, flags: u32) -> Result<VmFd, KvmError> {
        let vm = match self.vm.take() {
            Some(vm) => vm,
            None => self.empty_vm()?,
        };
        for (slot, region) in (0..).zip(memory.iter()) {
            set_memory_slot(&vm, slot, flags, region)?;
        }
        Ok(vm)
    }

    /// The interrupt controller and `count` vCPUs with CPUID, MSRs and APIC set; the boot vCPU
    /// first. Comes after the memory slots.
    ///
    /// # Errors
    /// As [`Self::create_blank_vcpus`].
    pub fn create_vcpus(&self, vm: &VmFd, count: u8) -> Result<Vec<VcpuFd>, KvmError> {
        let vcpus = self.create_blank_vcpus(vm, count)?;
        for vcpu in &vcpus {
            registers::set_msrs_and_apic(vcpu).map_err(KvmError::ioctl("KVM_SET_MSRS"))?;
        }
        Ok(vcpus)
    }

    /// The same for vCPUs that go on from a saved state, in which MSRs and APIC are.
    ///
    /// # Errors
    /// An ioctl's, or more vCPUs than KVM allows.
    pub fn create_blank_vcpus(&self, vm: &VmFd, count: u8) -> Result<Vec<VcpuFd>, KvmError> {
        let most = self.kvm.get_max_vcpus();
        if usize::from(count) > most {
            return Err(KvmError::Vcpus { want: usize::from(count), most });
        }
        let mut vcpus = Vec::with_capacity(usize::from(count));
        if let Some(boot) = self.boot.take() {
            if count != 1 {
                self.set_cpuid(&boot, 0, count)?;
            }
            vcpus.push(boot);
        } else {
            vm.create_irq_chip().map_err(KvmError::ioctl("KVM_CREATE_IRQCHIP"))?;
            vcpus.push(self.create_vcpu(vm, 0, count)?);
        }
        for index in 1..count {
            vcpus.push(self.create_vcpu(vm, index, count)?);
        }
        Ok(vcpus)
    }

    fn create_vcpu(&self, vm: &VmFd, index: u8, count: u8) -> Result<VcpuFd, KvmError> {
        let vcpu = vm.create_vcpu(u64::from(index)).map_err(KvmError::ioctl("KVM_CREATE_VCPU"))?;
        self.set_cpuid(&vcpu, index, count)?;
        Ok(vcpu)
    }

    /// What a vCPU says of itself. May be said anew until the vCPU has run.
    fn set_cpuid(&self, vcpu: &VcpuFd, index: u8, count: u8) -> Result<(), KvmError> {
        let table = cpuid::for_vcpu(&self.cpuid, index, count);
        vcpu.set_cpuid2(&table).map_err(KvmError::ioctl("KVM_SET_CPUID2"))
    }

    /// A bare vCPU without interrupt controller: `hlt` comes back to user space. For the probe.
    ///
    /// # Errors
    /// An ioctl's.
    pub fn create_bare_vcpu(&self, vm: &VmFd) -> Result<VcpuFd, KvmError> {
        let vcpu = vm.create_vcpu(0).map_err(KvmError::ioctl("KVM_CREATE_VCPU"))?;
        vcpu.set_cpuid2(&self.cpuid).map_err(KvmError::ioctl("KVM_SET_CPUID2"))?;
        Ok(vcpu)
    }
}

fn set_memory_slot(
    vm: &VmFd,
    slot: u32,
    flags: u32,
    region: &GuestRegionMmap,
) -> Result<(), KvmError> {
    let slot = kvm_userspace_memory_region {
        slot,
        flags,
        guest_phys_addr: region.start_addr().0,
        memory_size: region.len(),
        userspace_addr: region.as_ptr() as u64,
    };
    // SAFETY: the region is a live mapping of exactly this size that is never unmapped
    // (see `crate::memory`).
    unsafe { vm.set_user_memory_region(slot) }
        .map_err(KvmError::ioctl("KVM_SET_USER_MEMORY_REGION"))
}

/// The pages that were noted of a VM of [`Host::create_noted_vm`], by their numbers in the memory file. `slots` are the
/// sizes of the memory slots, which follow each other in that.
///
/// # Errors
/// The ioctl's.
pub fn noted_pages(vm: &VmFd, slots: &[u64]) -> Result<Vec<u64>, KvmError> {
    let (mut pages, mut first) = (Vec::new(), 0);
    for (slot, bytes) in (0..).zip(slots) {
        let length = usize::try_from(*bytes).unwrap_or(usize::MAX);
        let words = vm.get_dirty_log(slot, length).map_err(KvmError::ioctl("KVM_GET_DIRTY_LOG"))?;
        for (number, word) in (0_u64..).zip(words) {
            let set = (0..u64::from(u64::BITS)).filter(|bit| word >> bit & 1 == 1);
            pages.extend(set.map(|bit| first + number * u64::from(u64::BITS) + bit));
        }
        first += bytes / memory::PAGE_BYTES as u64;
    }
    Ok(pages)
}

/// Connects a virtio-mmio device's notifications, one per queue. Comes last.
///
/// Also takes the driver's acknowledgements away, for which a vCPU would have to leave KVM each time: the device does not
/// need them. Its interrupt is an edge, and the driver, told again of buffers that it has seen, looks and finds none.
///
/// # Errors
/// An ioctl's.
pub fn connect_device(vm: &VmFd, index: u32, queues: &[EventFd]) -> Result<(), KvmError> {
    let base = layout::VIRTIO_MMIO_BASE + u64::from(index) * layout::VIRTIO_MMIO_STRIDE;
    let register = |event: &EventFd, offset: u64, value: u32| {
        let address = IoEventAddress::Mmio(base + offset);
        vm.register_ioevent(event, &address, value).map_err(KvmError::ioctl("KVM_IOEVENTFD"))
    };
    for (queue, event) in (0..).zip(queues) {
        register(event, QUEUE_NOTIFY, queue)?;
    }
    // Nobody reads it, and KVM keeps it.
    let acknowledged = EventFd::new(EFD_NONBLOCK).map_err(KvmError::Event)?;
    register(&acknowledged, INTERRUPT_ACK, INTERRUPT_USED)
}
