//! The state in which the boot vCPU enters the kernel: the PVH entry's 32-bit protected mode.

use kvm_bindings::{Msrs, kvm_msr_entry, kvm_regs, kvm_segment};
use kvm_ioctls::Error as KvmError;
use kvm_ioctls::VcpuFd;

use super::layout;

/// CR0: protected mode, and the bit that is always set.
const CR0_PE_ET: u64 = 0x11;
/// RFLAGS: bit 1 is always set; interrupts are off.
const RFLAGS_RESERVED: u64 = 2;
/// `IA32_MISC_ENABLE` and its "fast strings" bit.
const MSR_MISC_ENABLE: (u32, u64) = (0x1a0, 1);
/// `IA32_MTRR_DEF_TYPE`: MTRRs on, everything write-back.
const MSR_MTRR_DEF_TYPE: (u32, u64) = (0x2ff, (1 << 11) | 6);
/// `IA32_TIME_STAMP_COUNTER`.
pub(crate) const MSR_TSC: u32 = 0x10;

/// Local vector table entry of LINT1 in the APIC's register page.
const APIC_LVT1: usize = 0x360;
/// Delivery mode "NMI" of a local vector table entry.
const APIC_DELIVER_NMI: u8 = 4;

/// Puts the boot vCPU at the PVH entry.
///
/// # Errors
/// An ioctl's error.
pub fn set_pvh_entry(vcpu: &VcpuFd, entry: u64) -> Result<(), KvmError> {
    let mut sregs = vcpu.get_sregs()?;
    let flat = |type_| kvm_segment {
        base: 0,
        limit: u32::MAX,
        type_,
        present: 1,
        db: 1,
        s: 1,
        g: 1,
        ..Default::default()
    };
    // Execute/read and read/write, both accessed; contents of the hidden registers, no GDT needed.
    sregs.cs = flat(0xb);
    for segment in [&mut sregs.ds, &mut sregs.es, &mut sregs.fs, &mut sregs.gs, &mut sregs.ss] {
        *segment = flat(0x3);
    }
    // A 32-bit busy TSS of the least size: VM entry on Intel insists on one.
    sregs.tr = kvm_segment { base: 0, limit: 0x67, type_: 0xb, present: 1, ..Default::default() };
    sregs.cr0 = CR0_PE_ET;
    sregs.cr4 = 0;
    vcpu.set_sregs(&sregs)?;
    let regs = kvm_regs {
        rflags: RFLAGS_RESERVED,
        rip: entry,
        rbx: layout::START_INFO,
        ..Default::default()
    };
    vcpu.set_regs(&regs)
}

/// Model-specific registers and local APIC of every vCPU.
///
/// # Errors
/// An ioctl's error; `EINVAL` if KVM did not take every register.
pub fn set_msrs_and_apic(vcpu: &VcpuFd) -> Result<(), KvmError> {
    let entries = [MSR_MISC_ENABLE, MSR_MTRR_DEF_TYPE].map(|(index, data)| kvm_msr_entry {
        index,
        data,
        ..Default::default()
    });
    let msrs = Msrs::from_entries(&entries).map_err(|_| KvmError::new(libc::EINVAL))?;
    if vcpu.set_msrs(&msrs)? != entries.len() {
        return Err(KvmError::new(libc::EINVAL));
    }
    let mut apic = vcpu.get_lapic()?;
    if let Some(delivery) = apic.regs.get_mut(APIC_LVT1 + 1) {
        // The register page is bytes of C's `char`; bits 8 to 10 hold the delivery mode.
        *delivery = (*delivery & !7) | APIC_DELIVER_NMI.cast_signed();
    }
    vcpu.set_lapic(&apic)
}

/// The vCPU's time-stamp counter now.
///
/// # Errors
/// An ioctl's error; `EINVAL` if KVM did not return it.
pub fn read_tsc(vcpu: &VcpuFd) -> Result<u64, KvmError> {
    let wanted = [kvm_msr_entry { index: MSR_TSC, ..Default::default() }];
    let mut msrs = Msrs::from_entries(&wanted).map_err(|_| KvmError::new(libc::EINVAL))?;
    vcpu.get_msrs(&mut msrs)?;
    msrs.as_slice().first().map(|msr| msr.data).ok_or_else(|| KvmError::new(libc::EINVAL))
}
