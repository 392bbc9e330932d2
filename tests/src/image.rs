//! Kernels and root images that are wrong in one way each.

use std::fs;
use std::path::{Path, PathBuf};

use crate::prefix::Prefix;

/// The type of the note that holds the PVH entry (`XEN_ELFNOTE_PHYS32_ENTRY`, xen/include/public/elfnote.h).
const PVH_NOTE: u32 = 18;
/// Where Debian's package `busybox-static` puts it; the only program of the images made here.
const BUSYBOX: &str = "/bin/busybox";

/// The first half of the kernel.
///
/// # Panics
/// It can't be read or written.
#[must_use]
pub fn truncated_kernel(folder: &Path) -> PathBuf {
    let kernel = fs::read(Prefix::built().kernel()).expect("the kernel");
    let half = kernel.get(..kernel.len() / 2).expect("half of it");
    written(folder, "truncated", half)
}

/// The kernel with another type in its PVH note.
///
/// # Panics
/// The note is not found, or the kernel can't be read or written.
#[must_use]
pub fn kernel_without_pvh(folder: &Path) -> PathBuf {
    let mut kernel = fs::read(Prefix::built().kernel()).expect("the kernel");
    // A note: length of the name, length of the value, type, name. The value is an address of 4 or 8 bytes.
    let found: Vec<usize> = [4_u32, 8]
        .iter()
        .flat_map(|length| {
            let mut note = Vec::new();
            for word in [4, *length, PVH_NOTE] {
                note.extend(word.to_le_bytes());
            }
            note.extend(b"Xen\0");
            kernel
                .windows(note.len())
                .enumerate()
                .filter(move |(_, window)| *window == note)
                .map(|(at, _)| at)
                .collect::<Vec<_>>()
        })
        .collect();
    assert_eq!(found.len(), 1, "PVH notes of the kernel, at {found:?}");
    for at in found {
        let kind = kernel.get_mut(at + 8..at + 12).expect("the note's type");
        kind.copy_from_slice(&0xffff_u32.to_le_bytes());
    }
    written(folder, "no-pvh", &kernel)
}

/// A root image whose first program is this script, for busybox's shell.
///
/// # Panics
/// busybox can't be read, or the image can't be written.
#[must_use]
pub fn root_with_init(folder: &Path, name: &str, script: &str) -> PathBuf {
    let mut archive = Archive::default();
    for directory in ["bin", "dev", "proc"] {
        archive.add(directory, 0o040_755, &[]);
    }
    archive.add("bin/busybox", 0o100_755, &fs::read(BUSYBOX).expect("busybox-static"));
    archive.add("init", 0o100_755, format!("#{}\n{script}\n", "!/bin/busybox sh").as_bytes());
    archive.add("TRAILER!!!", 0, &[]);
    written(folder, name, &archive.bytes)
}

/// A file with this content.
///
/// # Panics
/// It can't be written.
#[must_use]
pub fn written(folder: &Path, name: &str, content: &[u8]) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, content).expect("a file");
    path
}

/// The archive format `newc` of the kernel's `Documentation/driver-api/early-userspace/buffer-format.rst`.
#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    fn add(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.entries += 1;
        let length = |count: usize| u32::try_from(count).expect("a length that fits");
        // Inode, mode, user, group, links, time, size, device and special device, length of name, sum.
        let (size, name_size) = (length(content.len()), length(name.len() + 1));
        let fields = [self.entries, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0];
        self.bytes.extend(b"070701");
        for field in fields {
            self.bytes.extend(format!("{field:08X}").into_bytes());
        }
        self.bytes.extend(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}
