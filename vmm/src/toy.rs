//! Toy guests for tests: a few instructions in an ELF file with a PVH note.

/// Where the code of [`elf`] is loaded and entered.
pub const LOAD_ADDRESS: u64 = 0x10_0000;

/// `XEN_ELFNOTE_PHYS32_ENTRY`.
const NOTE_PHYS32_ENTRY: u32 = 18;
/// Sizes of the ELF-64 structures.
const HEADER_BYTES: u64 = 64;
const PROGRAM_HEADER_BYTES: u64 = 56;
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;

/// Which entry note the ELF gets.
#[derive(Clone, Copy, Debug)]
pub enum Note {
    /// None: not bootable by PVH.
    None,
    /// The entry is the first byte of the code.
    Pvh,
    /// The entry is elsewhere.
    PvhAt(u32),
}

/// An ELF file that loads `code` (32-bit protected mode, paging off) at [`LOAD_ADDRESS`].
#[must_use]
pub fn elf(code: &[u8], note: Note) -> Vec<u8> {
    let entry = match note {
        Note::None => None,
        Note::Pvh => u32::try_from(LOAD_ADDRESS).ok(),
        Note::PvhAt(entry) => Some(entry),
    };
    let headers = HEADER_BYTES + 2 * PROGRAM_HEADER_BYTES;
    let note = entry.map(note_bytes).unwrap_or_default();
    let code_offset = headers + note.len() as u64;
    let mut file = header();
    let note_type = if note.is_empty() { 0 } else { PT_NOTE };
    file.extend(program_header(note_type, headers, note.len() as u64));
    file.extend(program_header(PT_LOAD, code_offset, code.len() as u64));
    file.extend(&note);
    file.extend(code);
    file
}

fn header() -> Vec<u8> {
    let mut header = vec![0x7f, b'E', b'L', b'F', 2, 1, 1];
    header.resize(16, 0);
    header.extend(2u16.to_le_bytes()); // executable
    header.extend(62u16.to_le_bytes()); // x86-64
    header.extend(1u32.to_le_bytes());
    header.extend(LOAD_ADDRESS.to_le_bytes());
    header.extend(HEADER_BYTES.to_le_bytes()); // program headers follow
    header.extend(0u64.to_le_bytes());
    header.extend(0u32.to_le_bytes());
    for half in [64u16, 56, 2, 0, 0, 0] {
        header.extend(half.to_le_bytes());
    }
    header
}

fn program_header(kind: u32, offset: u64, bytes: u64) -> Vec<u8> {
    let mut header = Vec::new();
    header.extend(kind.to_le_bytes());
    header.extend(7u32.to_le_bytes());
    for word in [offset, LOAD_ADDRESS, LOAD_ADDRESS, bytes, bytes, 1] {
        header.extend(word.to_le_bytes());
    }
    header
}

fn note_bytes(entry: u32) -> Vec<u8> {
    let mut note = Vec::new();
    for word in [4u32, 4, NOTE_PHYS32_ENTRY] {
        note.extend(word.to_le_bytes());
    }
    note.extend(b"Xen\0");
    note.extend(entry.to_le_bytes());
    note
}
