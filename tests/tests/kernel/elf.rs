//! Just enough ELF: the PVH entry of a kernel, its sections' names, and the smallest images that load.

/// Owner and type of the note that names a kernel's 32-bit entry (xen/include/public/elfnote.h).
const XEN: &[u8] = b"Xen\0";
const PHYS32_ENTRY: u32 = 18;

const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
const HEADER_SIZE: u64 = 64;
const PROGRAM_HEADER_SIZE: u64 = 56;

fn bytes<const N: usize>(image: &[u8], offset: u64) -> Option<[u8; N]> {
    let start = usize::try_from(offset).ok()?;
    image.get(start..start.checked_add(N)?)?.try_into().ok()
}

fn u16_at(image: &[u8], offset: u64) -> Option<u64> {
    Some(u64::from(u16::from_le_bytes(bytes(image, offset)?)))
}

fn u32_at(image: &[u8], offset: u64) -> Option<u32> {
    Some(u32::from_le_bytes(bytes(image, offset)?))
}

fn u64_at(image: &[u8], offset: u64) -> Option<u64> {
    Some(u64::from_le_bytes(bytes(image, offset)?))
}

/// The physical address where a VMM enters this kernel in 32-bit mode.
pub(crate) fn pvh_entry(image: &[u8]) -> Option<u64> {
    let (table, count) = (u64_at(image, 0x20)?, u16_at(image, 0x38)?);
    (0..count)
        .map(|index| table + index * PROGRAM_HEADER_SIZE)
        .filter(|&header| u32_at(image, header) == Some(PT_NOTE))
        .find_map(|header| {
            entry_note(image, u64_at(image, header + 8)?, u64_at(image, header + 32)?)
        })
}

fn entry_note(image: &[u8], start: u64, length: u64) -> Option<u64> {
    let mut at = start;
    while at < start + length {
        let (name, description) = (u32_at(image, at)?, u32_at(image, at + 4)?);
        let after_name = at + 12 + u64::from(name.next_multiple_of(4));
        if u32_at(image, at + 8)? == PHYS32_ENTRY && bytes::<4>(image, at + 12)? == XEN {
            return Some(u64::from(u32_at(image, after_name)?));
        }
        at = after_name + u64::from(description.next_multiple_of(4));
    }
    None
}

/// Whether a section of this name is there.
pub(crate) fn has_section(image: &[u8], wanted: &str) -> bool {
    let names = || {
        let (table, size) = (u64_at(image, 0x28)?, u16_at(image, 0x3a)?);
        let (count, strings) = (u16_at(image, 0x3c)?, u16_at(image, 0x3e)?);
        let text = u64_at(image, table + strings * size + 24)?;
        (0..count)
            .map(|index| {
                let start =
                    usize::try_from(text + u64::from(u32_at(image, table + index * size)?)).ok()?;
                image.get(start..)?.split(|&byte| byte == 0).next()
            })
            .collect::<Option<Vec<_>>>()
    };
    names().is_some_and(|names| names.contains(&wanted.as_bytes()))
}

fn program_header(kind: u32, offset: u64, address: u64, size: u64) -> Vec<u8> {
    const READ_WRITE_EXECUTE: u32 = 7;
    let mut header = Vec::new();
    header.extend(kind.to_le_bytes());
    header.extend(READ_WRITE_EXECUTE.to_le_bytes());
    // A note's alignment is that of its fields; QEMU steps through it by this number.
    let alignment = if kind == PT_NOTE { 4 } else { 4096 };
    for field in [offset, address, address, size, size, alignment] {
        header.extend(field.to_le_bytes());
    }
    header
}

/// A static program whose `code` starts at `address`; with a PVH note for that address if `pvh`.
pub(crate) fn executable(code: &[u8], address: u32, pvh: bool) -> Vec<u8> {
    const CODE_OFFSET: u64 = 4096;
    let note = HEADER_SIZE + 2 * PROGRAM_HEADER_SIZE;
    // Identification: 64-bit, little-endian, version 1; then type EXEC, machine x86-64, version 1.
    let mut image =
        vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 62, 0, 1, 0, 0, 0];
    image.extend(u64::from(address).to_le_bytes());
    image.extend(HEADER_SIZE.to_le_bytes());
    image.extend([0; 12]);
    // Sizes of this header and of a program header, their number, no sections.
    let headers: [u16; 6] = [64, 56, if pvh { 2 } else { 1 }, 64, 0, 0];
    headers.iter().for_each(|field| image.extend(field.to_le_bytes()));
    image.extend(program_header(PT_LOAD, CODE_OFFSET, u64::from(address), code.len() as u64));
    image.extend(program_header(PT_NOTE, note, 0, 20));
    for field in [4, 4, PHYS32_ENTRY, u32::from_le_bytes(*b"Xen\0"), address] {
        image.extend(field.to_le_bytes());
    }
    image.resize(4096, 0);
    image.extend(code);
    image
}
