//! An ELF file with a PVH note around a guest's code, as the vmm boots kernels.

/// Where the code is loaded and entered.
pub(super) const LOAD_ADDRESS: u32 = 0x10_0000;

/// `XEN_ELFNOTE_PHYS32_ENTRY`, of Xen's `elfnote.h`.
const NOTE_PHYS32_ENTRY: u32 = 18;
// Of ELF-64: sizes and types.
const HEADER: u64 = 64;
const PROGRAM_HEADER: u64 = 56;
const LOAD: u32 = 1;
const NOTE: u32 = 4;

/// The file.
pub(super) fn file(code: &[u8]) -> Vec<u8> {
    let entry = LOAD_ADDRESS;
    let mut note = Vec::new();
    for word in [4, 4, NOTE_PHYS32_ENTRY] {
        note.extend(u32::to_le_bytes(word));
    }
    note.extend(b"Xen\0");
    note.extend(entry.to_le_bytes());
    let note_at = HEADER + 2 * PROGRAM_HEADER;
    let code_at = note_at + note.len() as u64;

    let mut file = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    // An executable file for x86-64, version 1.
    file.extend([2, 0, 62, 0, 1, 0, 0, 0]);
    file.extend(u64::from(entry).to_le_bytes());
    file.extend(HEADER.to_le_bytes());
    file.extend([0; 12]);
    for half in [64_u16, 56, 2, 0, 0, 0] {
        file.extend(half.to_le_bytes());
    }
    for (kind, at, bytes) in [(NOTE, note_at, note.len()), (LOAD, code_at, code.len())] {
        let bytes = bytes as u64;
        file.extend(kind.to_le_bytes());
        file.extend(7_u32.to_le_bytes());
        for word in [at, entry.into(), entry.into(), bytes, bytes, 1] {
            file.extend(u64::to_le_bytes(word));
        }
    }
    file.extend(&note);
    file.extend(code);
    file
}
