//! What the guest's CPUID says: what KVM supports, with this vCPU's place among the others.

use kvm_bindings::{CpuId, kvm_cpuid_entry2};

/// Leaf 1 EDX: more than one logical processor.
const HTT: u32 = 1 << 28;
/// Leaf 1 ECX: the local APIC timer has TSC-deadline mode. KVM's in-kernel APIC always has it, but
/// only user space may tell the guest. Without it the kernel calibrates the timer for 100 ms.
const TSC_DEADLINE: u32 = 1 << 24;
/// Leaf 1 ECX: a hypervisor is there.
const HYPERVISOR: u32 = 1 << 31;
/// Leaf 0x8000_0001 ECX: AMD's topology extension (leaf 0x8000_001e).
const LEVEL_CORE: u32 = 2 << 8;
/// Leaf 0xb ECX: this subleaf describes threads.
const LEVEL_THREAD: u32 = 1 << 8;

/// The table of vCPU `index` of `count`. One socket, one thread a core.
#[must_use]
pub fn for_vcpu(supported: &CpuId, index: u8, count: u8) -> CpuId {
    let mut cpuid = supported.clone();
    for entry in cpuid.as_mut_slice() {
        adapt(entry, u32::from(index), u32::from(count));
    }
    cpuid
}

fn adapt(entry: &mut kvm_cpuid_entry2, index: u32, count: u32) {
    match entry.function {
        0x1 => {
            // EBX: 31-24 APIC id, 23-16 logical processors of the package, 15-8 CLFLUSH lines.
            entry.ebx = (entry.ebx & 0xffff) | (count << 16) | (index << 24);
            entry.ecx |= TSC_DEADLINE | HYPERVISOR;
            entry.edx = if count > 1 { entry.edx | HTT } else { entry.edx & !HTT };
        }
        // EAX: 31-26 cores of the package less one, 25-14 threads that share the cache less one.
        0x4 if entry.eax & 0x1f != 0 => {
            let level = (entry.eax >> 5) & 0x7;
            let sharing = if level >= 3 { count - 1 } else { 0 };
            entry.eax = (entry.eax & 0x3fff) | (sharing << 14) | ((count - 1) << 26);
        }
        // No performance counters: nothing in the guest needs them, and they are a side channel.
        0xa => (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0),
        0xb | 0x1f => {
            let core_bits = u32::BITS - (count - 1).leading_zeros();
            (entry.eax, entry.ebx, entry.ecx) = match entry.index {
                0 => (0, 1, LEVEL_THREAD),
                1 => (core_bits, count, LEVEL_CORE | 1),
                other => (0, 0, other),
            };
            entry.edx = index;
        }
        // ECX: 15-12 bits of the APIC id that name the core, 7-0 cores less one.
        0x8000_0008 => {
            let core_bits = u32::BITS - (count - 1).leading_zeros();
            entry.ecx = (core_bits << 12) | (count - 1);
        }
        // EAX: extended APIC id; EBX: 15-8 threads of the core less one, 7-0 core id; ECX: node.
        0x8000_001e => (entry.eax, entry.ebx, entry.ecx) = (index, index, 0),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> CpuId {
        let leaf = |function, index| kvm_cpuid_entry2 {
            function,
            index,
            eax: u32::MAX,
            ebx: u32::MAX,
            ecx: 0,
            edx: u32::MAX,
            ..Default::default()
        };
        CpuId::from_entries(&[leaf(1, 0), leaf(0xa, 0), leaf(0xb, 0), leaf(0xb, 1)]).unwrap()
    }

    #[test]
    fn each_vcpu_has_its_own_id() {
        for count in [1u8, 2, 3, 32] {
            for index in 0..count {
                let cpuid = for_vcpu(&table(), index, count);
                let leaves = cpuid.as_slice();
                assert_eq!(leaves[0].ebx >> 24, u32::from(index));
                assert_eq!((leaves[0].ebx >> 16) & 0xff, u32::from(count));
                assert_eq!(leaves[0].edx & HTT != 0, count > 1);
                assert!(leaves[0].ecx & TSC_DEADLINE != 0);
                assert_eq!(leaves[1].eax, 0);
                assert_eq!(leaves[3].edx, u32::from(index));
                assert_eq!(leaves[3].ebx, u32::from(count));
                assert!(1u32 << leaves[3].eax >= u32::from(count));
            }
        }
    }
}
