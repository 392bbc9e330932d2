//! Writing a saved state into a new machine, in the order that KVM wants.
//!
//! ```text
//! each vCPU:    MP state, registers, segments, XSAVE, XCRs, debug registers,
//!               local APIC      after the segments, which hold its base; before the registers that it acts on
//!               MSRs
//! all vCPUs:    time-stamp counters
//! each vCPU:    the APIC timer's deadline, which means a value of that counter
//!               pending events  last of a vCPU, since all else can change them
//! the machine:  clock, interrupt controllers
//! ```
#![expect(unsafe_code, reason = "kvm-ioctls leaves the size of the XSAVE area to its caller")]

use kvm_bindings::{kvm_clock_data, kvm_msr_entry};
use kvm_ioctls::{Cap, VcpuFd, VmFd};

use super::saved::{IRQCHIPS, VcpuState, VmState, read_msrs, write_msrs};
use super::{Host, KvmError, offset};
use crate::sys;
use crate::x86_64::msrs;

/// Bytes of the XSAVE area that a saved state has room for.
const XSAVE_BYTES: i32 = 4096;
/// How far a counter may be from where it should be by now, in milliseconds. More means that KVM did not take the value.
const MAX_AWAY_MS: u64 = 1000;
/// Most that the rates of two hosts' counters may differ: above it a guest's clocks would drift. KVM itself
/// takes less for the same (`tsc_tolerance_ppm`).
const MAX_RATE_PPM: u64 = 250;

impl Host {
    /// Checks what saving and restoring needs of this KVM.
    ///
    /// # Errors
    /// Something is missing.
    pub fn check_can_save(&self, boot: &VcpuFd) -> Result<(), KvmError> {
        for (capability, name) in [
            (Cap::Xsave, "KVM_CAP_XSAVE"),
            (Cap::Xcrs, "KVM_CAP_XCRS"),
            (Cap::Debugregs, "KVM_CAP_DEBUGREGS"),
            (Cap::AdjustClock, "KVM_CAP_ADJUST_CLOCK"),
        ] {
            if !self.kvm.check_extension(capability) {
                return Err(KvmError::Missing { name });
            }
        }
        // 0 where KVM has no larger area than the old one. What a guest could have more (AMX) this process
        // would have had to ask for.
        if self.kvm.check_extension_int(Cap::Xsave2) > XSAVE_BYTES {
            return Err(KvmError::Missing { name: "an XSAVE area of at most 4096 bytes" });
        }
        offset::check(boot)
    }
}

/// A boot vCPU's time-stamp counter.
#[derive(Clone, Copy, Debug)]
pub struct Counter {
    /// What it was.
    pub tsc: u64,
    /// Its rate here, in kHz.
    pub khz: u32,
    /// When, in nanoseconds of the monotonic clock.
    pub at_ns: u64,
}

/// Puts the vCPUs, fresh from [`Host::create_blank_vcpus`], into their saved states. As many states as vCPUs.
/// Returns the boot vCPU's counter; `None`: there is no vCPU.
///
/// # Errors
/// An ioctl's, or KVM did not take something.
pub fn vcpus(
    vcpus: &[VcpuFd],
    states: &[VcpuState],
    tsc_khz: u32,
) -> Result<Option<Counter>, KvmError> {
    for (vcpu, state) in vcpus.iter().zip(states) {
        registers(vcpu, state)?;
    }
    let counter = counters(vcpus, states, tsc_khz)?;
    for (vcpu, state) in vcpus.iter().zip(states) {
        // A timer that fired just before the state was read has no deadline any more, and its interrupt may
        // not have been seen: it fires again now. Where no timer was on, KVM ignores it.
        let data = if state.tsc_deadline == 0 { state.tsc } else { state.tsc_deadline };
        let deadline = kvm_msr_entry { index: msrs::TSC_DEADLINE, data, ..Default::default() };
        write_msrs(vcpu, &[deadline]).map_err(KvmError::ioctl("KVM_SET_MSRS (timer)"))?;
        vcpu.set_vcpu_events(&state.events).map_err(KvmError::ioctl("KVM_SET_VCPU_EVENTS"))?;
        // Tells a guest's watchdog that it was stopped; EINVAL: the guest has no such clock.
        match vcpu.kvmclock_ctrl() {
            Err(error) if error.errno() != libc::EINVAL => {
                return Err(KvmError::ioctl("KVM_KVMCLOCK_CTRL")(error));
            }
            _ => {}
        }
    }
    Ok(counter)
}

fn registers(vcpu: &VcpuFd, state: &VcpuState) -> Result<(), KvmError> {
    vcpu.set_mp_state(state.mp_state).map_err(KvmError::ioctl("KVM_SET_MP_STATE"))?;
    vcpu.set_regs(&state.regs).map_err(KvmError::ioctl("KVM_SET_REGS"))?;
    vcpu.set_sregs(&state.sregs).map_err(KvmError::ioctl("KVM_SET_SREGS"))?;
    // SAFETY: `Host::check_can_save` saw that KVM's area is no larger than this structure.
    unsafe { vcpu.set_xsave(&state.xsave) }.map_err(KvmError::ioctl("KVM_SET_XSAVE"))?;
    vcpu.set_xcrs(&state.xcrs).map_err(KvmError::ioctl("KVM_SET_XCRS"))?;
    vcpu.set_debug_regs(&state.debug).map_err(KvmError::ioctl("KVM_SET_DEBUGREGS"))?;
    vcpu.set_lapic(&state.lapic).map_err(KvmError::ioctl("KVM_SET_LAPIC"))?;
    write_msrs(vcpu, &state.msrs).map_err(KvmError::ioctl("KVM_SET_MSRS"))
}

/// Every vCPU's counter goes on from where it was, all with the distances from each other that they had.
fn counters(
    vcpus: &[VcpuFd],
    states: &[VcpuState],
    tsc_khz: u32,
) -> Result<Option<Counter>, KvmError> {
    let (Some(boot), Some(first)) = (vcpus.first(), states.first()) else { return Ok(None) };
    let khz = boot.get_tsc_khz().map_err(KvmError::ioctl("KVM_GET_TSC_KHZ"))?;
    if u64::from(khz.abs_diff(tsc_khz)) * 1_000_000 > u64::from(khz) * MAX_RATE_PPM {
        return Err(KvmError::Rate { saved_khz: tsc_khz, khz });
    }
    let begin_ns = sys::monotonic_ns();
    let base = offset::read(boot)?.wrapping_add(first.tsc.wrapping_sub(read_tsc(boot)?));
    for (vcpu, state) in vcpus.iter().zip(states) {
        let apart = state.tsc_offset.wrapping_sub(first.tsc_offset);
        offset::write(vcpu, base.wrapping_add(apart))?;
    }
    let (wanted, got) = (first.tsc, read_tsc(boot)?);
    let at_ns = sys::monotonic_ns();
    let elapsed_ms = at_ns.saturating_sub(begin_ns) / 1_000_000;
    if was_taken(got.wrapping_sub(wanted), khz, elapsed_ms) {
        Ok(Some(Counter { tsc: got, khz, at_ns }))
    } else {
        Err(KvmError::Counter { wanted, got })
    }
}

/// Whether a counter that came so far since it was set can have been set. It is set in microseconds, but on a host with much
/// to do this thread may have waited for a processor in between, while the counter went on.
fn was_taken(ticks: u64, khz: u32, elapsed_ms: u64) -> bool {
    ticks <= u64::from(khz).saturating_mul(elapsed_ms.saturating_add(MAX_AWAY_MS))
}

fn read_tsc(vcpu: &VcpuFd) -> Result<u64, KvmError> {
    let read = read_msrs(vcpu, &[msrs::TSC]).map_err(KvmError::ioctl("KVM_GET_MSRS"))?;
    read.first().map(|msr| msr.data).ok_or(KvmError::Msrs)
}

/// Sets what the vCPUs share. Comes after them.
///
/// # Errors
/// An ioctl's, or the state names another interrupt controller.
pub fn machine(vm: &VmFd, state: &VmState) -> Result<(), KvmError> {
    // Nothing but the value: with the wall clock in it the guest's time would jump by as long as the state
    // was stored.
    let clock = kvm_clock_data { clock: state.clock.clock, ..Default::default() };
    vm.set_clock(&clock).map_err(KvmError::ioctl("KVM_SET_CLOCK"))?;
    for (chip, id) in state.irqchips.iter().zip(IRQCHIPS) {
        if chip.chip_id != id {
            return Err(KvmError::Chip { id: chip.chip_id });
        }
        vm.set_irqchip(chip).map_err(KvmError::ioctl("KVM_SET_IRQCHIP"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_that_went_on_while_its_thread_waited_was_taken() {
        const KHZ: u32 = 3_000_000;
        let seconds = |count: u64| count * 1000 * u64::from(KHZ);
        assert!(was_taken(0, KHZ, 0) && was_taken(seconds(1), KHZ, 0));
        assert!(!was_taken(seconds(1) + 1, KHZ, 0));
        assert!(was_taken(seconds(6), KHZ, 5000) && !was_taken(seconds(6) + 1, KHZ, 5000));
        // It went back.
        assert!(!was_taken(u64::MAX, KHZ, 5000));
        assert!(was_taken(u64::MAX, u32::MAX, u64::MAX));
    }
}
