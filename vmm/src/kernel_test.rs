use std::io::{Seek, Write};

use vm_memory::GuestMemoryMmap;

use super::*;
use crate::memory::sealed_file;
use crate::toy::{self, Note};

const MIB: u64 = 1 << 20;

fn spec() -> VmSpec {
    VmSpec { vcpus: 1, memory_mib: 64, extra_cmdline: String::new() }
}

fn memory() -> GuestMemoryMmap {
    crate::memory::map(&sealed_file(64 * MIB), 64 * MIB).unwrap()
}

fn file(bytes: &[u8]) -> File {
    let mut file = sealed_file(bytes.len() as u64);
    file.write_all(bytes).unwrap();
    file.rewind().unwrap();
    file
}

fn load_bytes(kernel: &[u8], root: &[u8]) -> Result<Loaded, ImageError> {
    load(&memory(), &spec(), &mut file(kernel), &mut file(root))
}

#[test]
fn a_kernel_with_a_note_loads_and_the_root_lies_at_the_end() {
    let loaded = load_bytes(&toy::elf(&[0xf4], Note::Pvh), &[7; 5000]).unwrap();
    assert_eq!(loaded.entry, toy::LOAD_ADDRESS);
    assert_eq!(loaded.root.bytes, 5000);
    assert_eq!(loaded.root.start, 64 * MIB - 8192);
}

#[test]
fn what_is_no_kernel_is_refused_with_the_reason() {
    let good = toy::elf(&[0xf4], Note::Pvh);
    assert!(matches!(load_bytes(b"", b"x"), Err(ImageError::Kernel(_))));
    assert!(matches!(load_bytes(b"#!/bin/sh\n", b"x"), Err(ImageError::Kernel(_))));
    for length in 0..good.len() {
        let cut = load_bytes(&good[..length], b"x");
        assert!(matches!(cut, Err(ImageError::Kernel(_))), "cut at {length}: {cut:?}");
    }
    let no_note = load_bytes(&toy::elf(&[0xf4], Note::None), b"x");
    assert!(matches!(no_note, Err(ImageError::NoPvhEntry)));
    let wild = load_bytes(&toy::elf(&[0xf4], Note::PvhAt(0x5000)), b"x");
    assert!(matches!(wild, Err(ImageError::Entry(0x5000))));
}

#[test]
fn a_root_that_does_not_fit_is_refused() {
    let kernel = toy::elf(&[0xf4], Note::Pvh);
    assert!(matches!(load_bytes(&kernel, b""), Err(ImageError::RootEmpty)));
    let mut huge = sealed_file(63 * MIB);
    let refused = load(&memory(), &spec(), &mut file(&kernel), &mut huge);
    assert!(matches!(refused, Err(ImageError::RootTooLarge { .. })));
}

#[test]
fn the_command_line_has_no_comments_and_ends_with_nul() {
    let spec = VmSpec { extra_cmdline: "one two".into(), ..spec() };
    let line = command_line(&spec).unwrap();
    let text = String::from_utf8(line).unwrap();
    assert!(text.ends_with("one two\0"), "{text}");
    assert!(!text.contains('#') && !text.contains('\n'), "{text}");
}

#[test]
fn early_memory_lies_below_the_root_or_at_the_end_of_the_high_range() {
    let root = |start| RootImage { start, bytes: 3 * MIB };
    // 64 bytes for each page are 1/64 of memory; 2 MiB for the tables.
    assert_eq!(early_memory(128 * MIB, &root(125 * MIB)), 121 * MIB..125 * MIB);
    let end = layout::MMIO_GAP_END + 1024 * MIB;
    assert_eq!(early_memory(4096 * MIB, &root(3069 * MIB)), end - 66 * MIB..end);
    assert_eq!(early_memory(48 * MIB, &root(MIB)), 0..MIB);
}

#[test]
fn what_is_loaded_is_whole_in_memory_that_is_no_multiple_of_a_huge_page() {
    let root: Vec<u8> = (0..5 * MIB).map(|at| (at % 251) as u8).collect();
    let size = 65 * MIB;
    let memory = crate::memory::map(&sealed_file(size), size).unwrap();
    let spec = VmSpec { memory_mib: 65, ..spec() };
    let kernel = toy::elf(&[0xf4], Note::Pvh);
    let loaded = load(&memory, &spec, &mut file(&kernel), &mut file(&root)).unwrap();
    let mut found = vec![0; root.len()];
    memory.read_slice(&mut found, GuestAddress(loaded.root.start)).unwrap();
    assert!(found == root);
    assert_eq!(loaded.root.start + loaded.root.bytes, size);
    assert_eq!(memory.read_obj::<u8>(GuestAddress(loaded.root.start - 1)).unwrap(), 0);
}
