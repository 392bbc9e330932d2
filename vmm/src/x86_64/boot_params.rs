//! PVH boot parameters: start info, module list and memory map, as Xen's `start_info.h` lays them out.

use linux_loader::loader::elf::start_info::{
    hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info,
};
use vm_memory::{Bytes, GuestAddress, GuestMemoryError, GuestMemoryMmap};

use super::layout;

/// `XEN_HVM_START_MAGIC_VALUE`.
const START_MAGIC: u32 = 0x336e_c578;
/// The version that has a memory map.
const START_VERSION: u32 = 1;
/// E820 type of usable memory.
const TYPE_RAM: u32 = 1;
/// E820 type of memory that the kernel must leave alone.
const TYPE_RESERVED: u32 = 2;

/// The root image in guest memory.
#[derive(Clone, Copy, Debug)]
pub struct RootImage {
    /// Guest physical address.
    pub start: u64,
    /// Bytes.
    pub bytes: u64,
}

/// Writes everything that the kernel's PVH entry reads; its address is [`layout::START_INFO`].
///
/// # Errors
/// Memory is too small (excluded by the spec's least size).
pub fn write(
    memory: &GuestMemoryMmap,
    memory_bytes: u64,
    root: RootImage,
) -> Result<(), GuestMemoryError> {
    let map = memory_map(memory_bytes);
    let start_info = hvm_start_info {
        magic: START_MAGIC,
        version: START_VERSION,
        nr_modules: 1,
        modlist_paddr: layout::MODULE_LIST,
        cmdline_paddr: layout::CMDLINE,
        rsdp_paddr: layout::ACPI_START,
        memmap_paddr: layout::MEMORY_MAP,
        // At most four entries, see `memory_map`.
        memmap_entries: u32::try_from(map.len()).unwrap_or(0),
        ..Default::default()
    };
    memory.write_obj(start_info, GuestAddress(layout::START_INFO))?;
    let module = hvm_modlist_entry { paddr: root.start, size: root.bytes, ..Default::default() };
    memory.write_obj(module, GuestAddress(layout::MODULE_LIST))?;
    let mut address = GuestAddress(layout::MEMORY_MAP);
    for entry in map {
        memory.write_obj(entry, address)?;
        address.0 += size_of::<hvm_memmap_table_entry>() as u64;
    }
    Ok(())
}

fn memory_map(memory_bytes: u64) -> Vec<hvm_memmap_table_entry> {
    let entry = |addr, end: u64, type_| hvm_memmap_table_entry {
        addr,
        size: end - addr,
        type_,
        ..Default::default()
    };
    let mut map = vec![
        entry(0, layout::LOW_RAM_END, TYPE_RAM),
        entry(layout::ACPI_START, layout::RESERVED_END, TYPE_RESERVED),
    ];
    for range in layout::ram_ranges(memory_bytes) {
        let start = range.start.max(layout::HIGH_RAM_START);
        map.push(entry(start, range.start + range.bytes, TYPE_RAM));
    }
    map
}
