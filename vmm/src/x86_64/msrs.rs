//! Which model-specific registers make up a vCPU's state.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use kvm_ioctls::VcpuFd;

use crate::kvm::{read_msrs, write_msrs};

/// `IA32_TIME_STAMP_COUNTER`: saved apart, since it goes on by itself.
pub const TSC: u32 = 0x10;
/// `IA32_TSC_DEADLINE`: saved apart, since it means nothing before the counter is set.
pub const TSC_DEADLINE: u32 = 0x6e0;
/// Most registers of a vCPU: KVM lists about 150.
pub const MAX_MSRS: usize = 1024;

/// Hyper-V's: no guest here is told of it, and touching one makes KVM set it up.
const HYPER_V: RangeInclusive<u32> = 0x4000_0000..=0x4000_0fff;
/// What a kernel sets and KVM's list leaves out: memory types (`IA32_MTRR_*`, `IA32_PAT`) and the banks of
/// machine checks.
const UNLISTED: &[RangeInclusive<u32>] = &[
    0x200..=0x20f,
    0x250..=0x250,
    0x258..=0x259,
    0x268..=0x26f,
    0x277..=0x277,
    0x2ff..=0x2ff,
    0x400..=0x47f,
];

/// Of the registers that KVM lists, and those that it should, the ones that can be read and written back on
/// this very vCPU, which the guest has not run on yet. What can't be written is of the processor's making and
/// the same in every machine.
#[must_use]
pub fn savable(vcpu: &VcpuFd, listed: &[u32]) -> Vec<u32> {
    let unlisted = UNLISTED.iter().cloned().flatten();
    let candidates: BTreeSet<u32> = listed.iter().copied().chain(unlisted).collect();
    candidates
        .into_iter()
        .filter(|index| *index != TSC && *index != TSC_DEADLINE && !HYPER_V.contains(index))
        .filter(|index| {
            read_msrs(vcpu, &[*index]).is_ok_and(|read| write_msrs(vcpu, &read).is_ok())
        })
        .take(MAX_MSRS)
        .collect()
}
