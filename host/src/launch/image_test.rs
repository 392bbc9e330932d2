use std::io::Write as _;

use super::*;

fn file(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}

/// An ELF header and the program headers `(type, offset, size)`, then `rest`.
fn elf(segments: &[(u32, u64, u64)], rest: &[u8]) -> Vec<u8> {
    let mut bytes = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    bytes.extend(2u16.to_le_bytes());
    bytes.extend(EM_X86_64.to_le_bytes());
    bytes.extend(1u32.to_le_bytes());
    for word in [0u64, 64, 0] {
        bytes.extend(word.to_le_bytes());
    }
    bytes.extend(0u32.to_le_bytes());
    let count = u16::try_from(segments.len()).unwrap();
    for half in [64, 56, count, 0, 0, 0] {
        bytes.extend(half.to_le_bytes());
    }
    for (kind, offset, size) in segments {
        bytes.extend(kind.to_le_bytes());
        bytes.extend(0u32.to_le_bytes());
        for word in [*offset, 0, 0, *size, *size, 4] {
            bytes.extend(word.to_le_bytes());
        }
    }
    bytes.extend(rest);
    bytes
}

fn note(name: &[u8], kind: u32, content: &[u8]) -> Vec<u8> {
    let mut note = Vec::new();
    for word in [u32::try_from(name.len()).unwrap(), u32::try_from(content.len()).unwrap(), kind] {
        note.extend(word.to_le_bytes());
    }
    for part in [name, content] {
        note.extend(part);
        note.resize(note.len().next_multiple_of(4), 0);
    }
    note
}

fn with_notes(notes: &[u8]) -> Vec<u8> {
    elf(&[(PT_NOTE, 120, notes.len() as u64)], notes)
}

#[test]
fn a_kernel_with_the_note_passes() {
    let notes = [note(b"GNU\0", 3, &[1; 20]), note(b"Xen\0", 18, &[0, 0, 16, 0])].concat();
    check_kernel(&file(&with_notes(&notes))).unwrap();
}

#[test]
fn other_notes_do_not_make_a_kernel() {
    for notes in [
        Vec::new(),
        note(b"Xen\0", 6, b"linux\0"),
        note(b"GNU\0", 18, &[0; 4]),
        // Sizes that lead out of the notes and out of a word.
        [u32::MAX.to_le_bytes(), u32::MAX.to_le_bytes(), [0; 4]].concat(),
        vec![0; 11],
    ] {
        let checked = check_kernel(&file(&with_notes(&notes)));
        assert!(matches!(checked, Err(ImageError::NoPvhNote)), "{checked:?}");
    }
}

#[test]
fn what_is_not_an_elf_file_of_this_machine() {
    for bytes in [&b""[..], b"\x7fEL", b"#!/bin/sh\n", &[0; 500]] {
        assert!(matches!(check_kernel(&file(bytes)), Err(ImageError::NotElf)));
    }
    let mut narrow = with_notes(&[]);
    narrow[4] = 1;
    let mut foreign = with_notes(&[]);
    foreign[18] = 183;
    for bytes in [narrow, foreign] {
        assert!(matches!(check_kernel(&file(&bytes)), Err(ImageError::WrongMachine)));
    }
}

#[test]
fn segments_must_lie_in_the_file() {
    let cut = elf(&[(PT_LOAD, 100, 1000)], &[0; 10]);
    let checked = check_kernel(&file(&cut));
    assert!(matches!(checked, Err(ImageError::Truncated { length: 130, needed: 1100 })));
    let beyond = elf(&[(PT_LOAD, u64::MAX, 2)], &[]);
    assert!(matches!(check_kernel(&file(&beyond)), Err(ImageError::BadHeaders)));
    // More headers than are there.
    let mut more = with_notes(&[]);
    more[56] = 9;
    assert!(matches!(check_kernel(&file(&more)), Err(ImageError::Truncated { .. })));
}

#[test]
fn headers_that_make_no_sense() {
    for (offset, value) in [(54, 55), (56, 0), (56, 65), (57, 255), (39, 255)] {
        let mut bytes = with_notes(&[]);
        bytes[offset] = value;
        let checked = check_kernel(&file(&bytes));
        let refused = matches!(checked, Err(ImageError::BadHeaders | ImageError::Truncated { .. }));
        assert!(refused, "{offset}: {checked:?}");
    }
}

#[test]
fn roots() {
    for good in [&b"070701..."[..], b"070702..."] {
        check_root(&file(good)).unwrap();
    }
    for (bytes, name) in [
        (&[0x1f, 0x8b, 8, 0, 0, 0][..], "gzip"),
        (&[0x28, 0xb5, 0x2f, 0xfd, 0, 0], "zstd"),
        (b"\xfd7zXZ\0", "xz"),
        (&[0x04, 0x22, 0x4d, 0x18, 0, 0], "lz4"),
    ] {
        let checked = check_root(&file(bytes));
        assert!(matches!(checked, Err(ImageError::Compressed { format }) if format == name));
    }
    for bytes in [&b""[..], b"0707", b"070707", b"something else"] {
        assert!(matches!(check_root(&file(bytes)), Err(ImageError::NotCpio)));
    }
}
