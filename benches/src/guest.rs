//! The toy guest: an ELF kernel with a PVH entry that writes one byte to the serial port and halts.
//!
//! Two things are as in a real `vmlinux`, because other machine monitors want them so: the note's
//! descriptor has eight bytes, and the file is larger than the boot sector that they look for first.

/// What the guest writes.
pub const MARKER: u8 = b'C';
/// Where the code is loaded and entered.
const LOAD_ADDRESS: u32 = 0x10_0000;
/// `XEN_ELFNOTE_PHYS32_ENTRY`: the PVH entry, a physical address.
const NOTE_ENTRY: u32 = 18;
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
/// Sizes of the ELF-64 structures.
const HEADER_BYTES: u64 = 64;
const PROGRAM_HEADER_BYTES: u64 = 56;
/// Where in the file the code lies: a page of its own, as a linker would place it.
const CODE_OFFSET: u64 = 4096;
/// Length of the loaded part; the code is followed by zeros.
const CODE_BYTES: u64 = 8192;

/// 32-bit protected mode, paging off, interrupts off: where PVH enters.
const CODE: [u8; 11] = [
    0x66, 0xba, 0xf8, 0x03, // mov dx, 0x3f8
    0xb0, MARKER, // mov al, MARKER
    0xee,   // out dx, al
    0xfa,   // cli
    0xf4,   // hlt
    0xeb, 0xfd, // jmp to hlt
];
/// The same, and over and over again: wherever it is saved, its next byte is a few instructions away.
const CODE_THAT_REPEATS: [u8; 9] = [
    0x66, 0xba, 0xf8, 0x03, // mov dx, 0x3f8
    0xb0, MARKER, // mov al, MARKER
    0xee,   // out dx, al
    0xeb, 0xfd, // jmp to out
];

/// The ELF file of the guest that writes its byte once.
#[must_use]
pub fn elf() -> Vec<u8> {
    elf_of(&CODE)
}

/// The same of the guest that writes it for ever.
#[must_use]
pub fn elf_that_repeats() -> Vec<u8> {
    elf_of(&CODE_THAT_REPEATS)
}

fn elf_of(code: &[u8]) -> Vec<u8> {
    let note = note();
    let note_offset = HEADER_BYTES + 2 * PROGRAM_HEADER_BYTES;
    let mut file = header();
    file.extend(program_header(PT_NOTE, note_offset, 0, note.len() as u64, 4));
    file.extend(program_header(PT_LOAD, CODE_OFFSET, LOAD_ADDRESS.into(), CODE_BYTES, 4096));
    file.extend(note);
    file.resize(4096, 0);
    file.extend(code);
    file.resize(3 * 4096, 0);
    file
}

fn header() -> Vec<u8> {
    let mut header = vec![0x7f, b'E', b'L', b'F', 2, 1, 1];
    header.resize(16, 0);
    header.extend(2u16.to_le_bytes()); // executable
    header.extend(62u16.to_le_bytes()); // x86-64
    header.extend(1u32.to_le_bytes());
    header.extend(u64::from(LOAD_ADDRESS).to_le_bytes());
    header.extend(HEADER_BYTES.to_le_bytes()); // program headers follow
    header.extend(0u64.to_le_bytes());
    header.extend(0u32.to_le_bytes());
    for half in [64u16, 56, 2, 0, 0, 0] {
        header.extend(half.to_le_bytes());
    }
    header
}

fn program_header(kind: u32, offset: u64, address: u64, bytes: u64, align: u64) -> Vec<u8> {
    let mut header = Vec::new();
    header.extend(kind.to_le_bytes());
    header.extend(7u32.to_le_bytes());
    for word in [offset, address, address, bytes, bytes, align] {
        header.extend(word.to_le_bytes());
    }
    header
}

fn note() -> Vec<u8> {
    let mut note = Vec::new();
    for word in [4u32, 8, NOTE_ENTRY] {
        note.extend(word.to_le_bytes());
    }
    note.extend(b"Xen\0");
    note.extend(u64::from(LOAD_ADDRESS).to_le_bytes());
    note
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_lies_where_the_program_header_says() {
        let file = elf();
        assert_eq!(file.len() as u64, CODE_OFFSET + CODE_BYTES);
        assert_eq!(&file[4096..4096 + CODE.len()], CODE);
        assert_eq!(&file[176 + 12..176 + 16], b"Xen\0");
    }
}
