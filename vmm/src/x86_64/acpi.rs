//! The ACPI tables: hardware-reduced and as few as a kernel needs (ACPI 6.5).
//!
//! ACPI and not an MP table, because the generation id of a forked machine (VMGENID) reaches an x86
//! kernel only by ACPI, its interrupt by a generic event device (5.6.9). Power-off and reset registers come with it, so no keyboard controller is
//! emulated.

use acpi_tables::Aml;
use acpi_tables::aml::{
    Device, IO, Interrupt, Memory32Fixed, Method, Name, Notify, Package, Path, ResourceTemplate,
};
use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::madt::{
    EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic,
};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use vm_memory::{Bytes, GuestAddress, GuestMemoryError, GuestMemoryMmap};

use super::layout;

const OEM_ID: [u8; 6] = *b"CLSTER";
const TABLE_ID: [u8; 8] = *b"CLOISTER";
const REVISION: u32 = 1;
/// FADT `IAPC_BOOT_ARCH`: no VGA (bit 2), no CMOS clock (bit 5); bit 1 clear: no keyboard controller.
const BOOT_ARCH: u16 = (1 << 2) | (1 << 5);
/// FADT flag bit 10: the reset register is there.
const RESET_REG_SUP: u32 = 1 << 10;
/// What the device with the generation id notifies of: "changed" (VMGENID 1.0).
const GENERATION_CHANGED: u8 = 0x80;
/// Tables start at addresses aligned to this.
const ALIGN: u64 = 16;

/// Writes all tables; the RSDP lies at [`layout::ACPI_START`].
///
/// # Errors
/// The tables don't fit into their room.
pub fn write(memory: &GuestMemoryMmap, vcpus: u8, devices: u32) -> Result<(), GuestMemoryError> {
    let mut next = layout::ACPI_START + (Rsdp::len() as u64).next_multiple_of(ALIGN);
    let mut place = |table: &[u8]| {
        let address = next;
        next = (next + table.len() as u64).next_multiple_of(ALIGN);
        if next > layout::ACPI_END {
            return Err(GuestMemoryError::InvalidGuestAddress(GuestAddress(next)));
        }
        memory.write_slice(table, GuestAddress(address)).map(|()| address)
    };
    let dsdt = place(dsdt(devices).as_slice())?;
    let fadt = place(&bytes(&fadt(dsdt)))?;
    let madt = place(&bytes(&madt(vcpus)))?;
    let mut xsdt = XSDT::new(OEM_ID, TABLE_ID, REVISION);
    xsdt.add_entry(fadt);
    xsdt.add_entry(madt);
    let xsdt = place(&bytes(&xsdt))?;
    memory.write_slice(&bytes(&Rsdp::new(OEM_ID, xsdt)), GuestAddress(layout::ACPI_START))
}

fn bytes(table: &dyn Aml) -> Vec<u8> {
    let mut sink = Vec::new();
    table.to_aml_bytes(&mut sink);
    sink
}

fn fadt(dsdt: u64) -> acpi_tables::fadt::FADT {
    let mut fadt =
        FADTBuilder::new(OEM_ID, TABLE_ID, REVISION).dsdt_64(dsdt).flag(Flags::HwReducedAcpi);
    fadt.flags = (fadt.flags.get() | RESET_REG_SUP).into();
    fadt.iapc_boot_arch = BOOT_ARCH.into();
    fadt.reset_reg = port(layout::RESET_PORT);
    fadt.reset_value = layout::RESET_VALUE;
    fadt.sleep_control_reg = port(layout::SLEEP_CONTROL_PORT);
    fadt.sleep_status_reg = port(layout::SLEEP_STATUS_PORT);
    fadt.finalize()
}

fn port(number: u16) -> GAS {
    GAS::new(AddressSpace::SystemIo, 8, 0, AccessSize::ByteAccess, u64::from(number))
}

fn madt(vcpus: u8) -> MADT {
    let address = LocalInterruptController::Address(layout::LOCAL_APIC);
    let mut madt = MADT::new(OEM_ID, TABLE_ID, REVISION, address);
    for id in 0..vcpus {
        madt.add_structure(ProcessorLocalApic::new(id, id, EnabledStatus::Enabled));
    }
    madt.add_structure(IoApic::new(0, layout::IO_APIC, 0));
    madt
}

/// The devices: virtio-mmio (`LNRO0005`), the panic port (`QEMU0001`), the generation id (`VM_Gen_Counter`) with the event
/// device (`ACPI0013`), and how to power off (`_S5`).
fn dsdt(devices: u32) -> Sdt {
    let mut aml = Vec::new();
    for index in 0..devices {
        virtio_mmio(index, &mut aml);
    }
    Device::new(
        "_SB_.PVPC".into(),
        vec![
            &Name::new("_HID".into(), &"QEMU0001"),
            &Name::new(
                "_CRS".into(),
                &ResourceTemplate::new(vec![&IO::new(
                    layout::PANIC_PORT,
                    layout::PANIC_PORT,
                    1,
                    1,
                )]),
            ),
        ],
    )
    .to_aml_bytes(&mut aml);
    generation_id(&mut aml);
    Name::new("_S5_".into(), &Package::new(vec![&layout::SLEEP_TYPE_OFF])).to_aml_bytes(&mut aml);
    let mut dsdt = Sdt::new(*b"DSDT", 36, 6, OEM_ID, TABLE_ID, REVISION);
    dsdt.append_slice(&aml);
    dsdt
}

/// Where the generation id lies, as the low and the high half of its address, and by what the guest hears that it changed.
/// The hardware id is the short one, which kernels with 8 characters for it compare rightly too.
fn generation_id(aml: &mut Vec<u8>) {
    let low = u32::try_from(layout::GENERATION_ID).unwrap_or(0);
    Device::new(
        "_SB_.VGEN".into(),
        vec![
            &Name::new("_HID".into(), &"VMGENCTR"),
            &Name::new("_CID".into(), &"VM_Gen_Counter"),
            &Name::new("_DDN".into(), &"VM_Gen_Counter"),
            &Name::new("ADDR".into(), &Package::new(vec![&low, &acpi_tables::aml::ZERO])),
        ],
    )
    .to_aml_bytes(aml);
    let interrupt = Interrupt::new(true, true, false, false, layout::GENERATION_GSI);
    let device = Path::new("\\_SB_.VGEN");
    let changed = Notify::new(&device, &GENERATION_CHANGED);
    Device::new(
        "_SB_.GED_".into(),
        vec![
            &Name::new("_HID".into(), &"ACPI0013"),
            &Name::new("_UID".into(), &acpi_tables::aml::ZERO),
            &Name::new("_CRS".into(), &ResourceTemplate::new(vec![&interrupt])),
            // It has one interrupt, so there is nothing to tell apart.
            &Method::new("_EVT".into(), 1, true, vec![&changed]),
        ],
    )
    .to_aml_bytes(aml);
}

fn virtio_mmio(index: u32, aml: &mut Vec<u8>) {
    // A handful of devices from `VIRTIO_MMIO_BASE`: far from the end of 32 bits.
    let base =
        (layout::VIRTIO_MMIO_BASE + u64::from(index) * layout::VIRTIO_MMIO_STRIDE) & 0xffff_ffff;
    let registers = Memory32Fixed::new(
        true,
        u32::try_from(base).unwrap_or(0),
        u32::try_from(layout::VIRTIO_MMIO_STRIDE).unwrap_or(0),
    );
    let interrupt = Interrupt::new(true, true, false, false, layout::VIRTIO_FIRST_GSI + index);
    Device::new(
        Path::new(&format!("_SB_.VR{index:02}")),
        vec![
            &Name::new("_HID".into(), &"LNRO0005"),
            &Name::new("_UID".into(), &index),
            &Name::new("_CCA".into(), &acpi_tables::aml::ONE),
            &Name::new("_CRS".into(), &ResourceTemplate::new(vec![&registers, &interrupt])),
        ],
    )
    .to_aml_bytes(aml);
}
