//! The guest's physical memory, drawn:
//!
//! ```text
//! 0x0000_0000  RAM
//! 0x0000_6000  PVH start info, module list, memory map      (read by the kernel's first code)
//! 0x0002_0000  kernel command line
//! 0x0009_fc00  end of the first RAM range
//! 0x000e_0000  ACPI tables, reserved                        (to 0x0010_0000)
//! 0x000f_f000  generation id, in a page of its own
//! 0x0010_0000  RAM: the kernel where its ELF says (16 MiB), the root image at the end
//! 0xc000_0000  MMIO gap: virtio-mmio from 0xd000_0000, I/O APIC, local APICs, TSS
//! 0x1_0000_0000  the rest of RAM
//! ```

/// PVH start info (`hvm_start_info`).
pub const START_INFO: u64 = 0x6000;
/// PVH module list: one entry, the root image.
pub const MODULE_LIST: u64 = 0x6100;
/// PVH memory map.
pub const MEMORY_MAP: u64 = 0x6200;
/// Kernel command line, NUL-terminated.
pub const CMDLINE: u64 = 0x2_0000;
/// Longest command line with its NUL: `COMMAND_LINE_SIZE` of arch/x86.
pub const CMDLINE_MAX: usize = 2048;
/// End of conventional memory (the last KiB is where a PC has its EBDA).
pub const LOW_RAM_END: u64 = 0x9_fc00;
/// ACPI tables; the RSDP comes first.
pub const ACPI_START: u64 = 0xe_0000;
/// End of the ACPI tables' room.
pub const ACPI_END: u64 = GENERATION_ID;
/// The generation id, in the last page that is reserved for ACPI: nothing else may lie in its page (VMGENID 1.0).
pub const GENERATION_ID: u64 = 0xf_f000;
/// Where all that is reserved for ACPI ends.
pub const RESERVED_END: u64 = 0x10_0000;
/// Where memory goes on after the hole of a PC.
pub const HIGH_RAM_START: u64 = 0x10_0000;
/// The MMIO gap: 1 GiB below 4 GiB.
pub const MMIO_GAP_START: u64 = 0xc000_0000;
/// First address after the gap.
pub const MMIO_GAP_END: u64 = 0x1_0000_0000;

/// Register pages of the virtio-mmio devices, one after the other.
pub const VIRTIO_MMIO_BASE: u64 = 0xd000_0000;
/// Bytes between two devices: a page, so that each could be mapped alone.
pub const VIRTIO_MMIO_STRIDE: u64 = 0x1000;
/// Interrupt line (GSI) of the first virtio device; the next has the next.
pub const VIRTIO_FIRST_GSI: u32 = 5;

/// Interrupt line (GSI) of the generic event device, by which the guest hears of a new generation id. Above those of a
/// PC's first interrupt controller, and of the virtio devices.
pub const GENERATION_GSI: u32 = 16;

/// I/O APIC (in the kernel).
pub const IO_APIC: u32 = 0xfec0_0000;
/// Local APICs.
pub const LOCAL_APIC: u32 = 0xfee0_0000;
/// Three pages that KVM on Intel wants for its own task state segment, in the gap.
pub const KVM_TSS: u64 = 0xfffb_d000;

/// I/O ports of the serial log's UART: 8 from here (COM1).
pub const SERIAL_PORT: u16 = 0x3f8;
/// First port after the UART.
pub const SERIAL_PORT_END: u16 = SERIAL_PORT + 8;
/// I/O port on which the guest kernel reports its panic (pvpanic interface).
pub const PANIC_PORT: u16 = 0x505;
/// ACPI sleep control register (hardware-reduced): power off.
pub const SLEEP_CONTROL_PORT: u16 = 0x600;
/// ACPI sleep status register: always "not waking".
pub const SLEEP_STATUS_PORT: u16 = 0x601;
/// ACPI reset register.
pub const RESET_PORT: u16 = 0x604;
/// Value that resets when written to [`RESET_PORT`].
pub const RESET_VALUE: u8 = 1;
/// Sleep type of S5 (off) in the DSDT's `_S5` package and in [`SLEEP_CONTROL_PORT`].
pub const SLEEP_TYPE_OFF: u8 = 5;

/// A piece of guest RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RamRange {
    /// Guest physical address.
    pub start: u64,
    /// Size.
    pub bytes: u64,
}

/// How `size` bytes of RAM lie around the MMIO gap.
pub fn ram_ranges(size: u64) -> impl Iterator<Item = RamRange> {
    let low = size.min(MMIO_GAP_START);
    let high = size - low;
    let ranges = [RamRange { start: 0, bytes: low }, RamRange { start: MMIO_GAP_END, bytes: high }];
    ranges.into_iter().filter(|range| range.bytes > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ram_leaves_the_gap_free() {
        let mib = 1 << 20;
        let of = |size| ram_ranges(size).collect::<Vec<_>>();
        assert_eq!(of(48 * mib), [RamRange { start: 0, bytes: 48 * mib }]);
        assert_eq!(of(3072 * mib), [RamRange { start: 0, bytes: MMIO_GAP_START }]);
        assert_eq!(
            of(3073 * mib),
            [
                RamRange { start: 0, bytes: MMIO_GAP_START },
                RamRange { start: MMIO_GAP_END, bytes: mib }
            ]
        );
    }
}
