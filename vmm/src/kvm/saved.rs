//! What KVM knows of a stopped machine, as plain data, and reading it.
//!
//! Each vCPU's thread reads its own vCPU, between two runs of the guest; the event loop reads what belongs to
//! the whole machine. The order of the reads matters and is told beside them.

use kvm_bindings::{
    KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, Msrs, kvm_clock_data,
    kvm_debugregs, kvm_irqchip, kvm_lapic_state, kvm_mp_state, kvm_msr_entry, kvm_regs, kvm_sregs,
    kvm_vcpu_events, kvm_xcrs, kvm_xsave,
};
use kvm_ioctls::{Error as Errno, VcpuFd, VmFd};
use serde::{Deserialize, Serialize};

use super::{KvmError, offset};
use crate::x86_64::msrs;

/// Control register 4: virtual machine extensions of Intel are on. EFER: those of AMD are.
const CR4_VMXE: u64 = 1 << 13;
const EFER_SVME: u64 = 1 << 12;
/// Registers in one call: far below KVM's own limit of 256.
const MSRS_PER_CALL: usize = 128;

/// One vCPU.
#[derive(Debug, Serialize, Deserialize)]
pub struct VcpuState {
    /// Whether it runs, is halted or was never started.
    pub mp_state: kvm_mp_state,
    /// General registers.
    pub regs: kvm_regs,
    /// Segments, control registers, the place of the local APIC.
    pub sregs: kvm_sregs,
    /// Floating point and vectors.
    pub xsave: kvm_xsave,
    /// Extended control registers.
    pub xcrs: kvm_xcrs,
    /// Debug registers.
    pub debug: kvm_debugregs,
    /// The local APIC.
    pub lapic: kvm_lapic_state,
    /// Model-specific registers, those of [`msrs::savable`].
    pub msrs: Vec<kvm_msr_entry>,
    /// The time-stamp counter.
    pub tsc: u64,
    /// How far it is from the host's. Only the differences between vCPUs mean anything elsewhere.
    pub tsc_offset: u64,
    /// At which value of the counter the APIC's timer fires; 0: it is off, or has just fired.
    pub tsc_deadline: u64,
    /// Pending exceptions, interrupts and the like.
    pub events: kvm_vcpu_events,
}

/// What the vCPUs share.
#[derive(Debug, Serialize, Deserialize)]
pub struct VmState {
    /// The guest's clock (kvm-clock).
    pub clock: kvm_clock_data,
    /// Both PICs, then the I/O APIC.
    pub irqchips: [kvm_irqchip; 3],
}

/// The interrupt controllers in the order of [`VmState::irqchips`].
pub(super) const IRQCHIPS: [u32; 3] =
    [KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, KVM_IRQCHIP_IOAPIC];

impl VcpuState {
    /// Reads a vCPU that is out of the guest. `wanted`: the registers of [`msrs::savable`].
    ///
    /// # Errors
    /// An ioctl's, or the guest itself uses virtual machines.
    pub fn read(vcpu: &VcpuFd, wanted: &[u32]) -> Result<Self, KvmError> {
        // First: it makes KVM take in what the APIC has received (INIT, SIPI), which changes the rest.
        let mp_state = vcpu.get_mp_state().map_err(KvmError::ioctl("KVM_GET_MP_STATE"))?;
        let regs = vcpu.get_regs().map_err(KvmError::ioctl("KVM_GET_REGS"))?;
        let sregs = vcpu.get_sregs().map_err(KvmError::ioctl("KVM_GET_SREGS"))?;
        if sregs.cr4 & CR4_VMXE != 0 || sregs.efer & EFER_SVME != 0 {
            return Err(KvmError::Nested);
        }
        let xsave = vcpu.get_xsave().map_err(KvmError::ioctl("KVM_GET_XSAVE"))?;
        let xcrs = vcpu.get_xcrs().map_err(KvmError::ioctl("KVM_GET_XCRS"))?;
        let debug = vcpu.get_debug_regs().map_err(KvmError::ioctl("KVM_GET_DEBUGREGS"))?;
        let lapic = vcpu.get_lapic().map_err(KvmError::ioctl("KVM_GET_LAPIC"))?;
        let msrs = read_msrs(vcpu, wanted).map_err(KvmError::ioctl("KVM_GET_MSRS"))?;
        let tsc_offset = offset::read(vcpu)?;
        let clocks = read_msrs(vcpu, &[msrs::TSC_DEADLINE, msrs::TSC])
            .map_err(KvmError::ioctl("KVM_GET_MSRS (time-stamp counter)"))?;
        let [deadline, tsc] = clocks.as_slice() else { return Err(KvmError::Msrs) };
        let (tsc_deadline, tsc) = (deadline.data, tsc.data);
        // Last: what came before can leave something pending.
        let events = vcpu.get_vcpu_events().map_err(KvmError::ioctl("KVM_GET_VCPU_EVENTS"))?;
        Ok(Self {
            mp_state,
            regs,
            sregs,
            xsave,
            xcrs,
            debug,
            lapic,
            msrs,
            tsc,
            tsc_offset,
            tsc_deadline,
            events,
        })
    }
}

impl VmState {
    /// Reads what the vCPUs share, while all of them are out of the guest.
    ///
    /// # Errors
    /// An ioctl's.
    pub fn read(vm: &VmFd) -> Result<Self, KvmError> {
        let clock = vm.get_clock().map_err(KvmError::ioctl("KVM_GET_CLOCK"))?;
        let mut irqchips = IRQCHIPS.map(|chip_id| kvm_irqchip { chip_id, ..Default::default() });
        for chip in &mut irqchips {
            vm.get_irqchip(chip).map_err(KvmError::ioctl("KVM_GET_IRQCHIP"))?;
        }
        Ok(Self { clock, irqchips })
    }
}

/// Reads registers; KVM must know all of them.
pub(crate) fn read_msrs(vcpu: &VcpuFd, wanted: &[u32]) -> Result<Vec<kvm_msr_entry>, Errno> {
    let mut read = Vec::with_capacity(wanted.len());
    for part in wanted.chunks(MSRS_PER_CALL) {
        let entries: Vec<_> = part
            .iter()
            .map(|index| kvm_msr_entry { index: *index, ..Default::default() })
            .collect();
        let mut msrs = Msrs::from_entries(&entries).map_err(|_| Errno::new(libc::EINVAL))?;
        // KVM stops at the first that it does not know.
        if vcpu.get_msrs(&mut msrs)? != part.len() {
            return Err(Errno::new(libc::EINVAL));
        }
        read.extend_from_slice(msrs.as_slice());
    }
    Ok(read)
}

/// Writes registers, in their order; KVM must take all of them.
pub(crate) fn write_msrs(vcpu: &VcpuFd, entries: &[kvm_msr_entry]) -> Result<(), Errno> {
    for part in entries.chunks(MSRS_PER_CALL) {
        let msrs = Msrs::from_entries(part).map_err(|_| Errno::new(libc::EINVAL))?;
        if vcpu.set_msrs(&msrs)? != part.len() {
            return Err(Errno::new(libc::EINVAL));
        }
    }
    Ok(())
}
