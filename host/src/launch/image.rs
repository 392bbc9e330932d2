//! Cheap checks that a kernel and a root are what they should be, before a process starts.
//!
//! They are for the person who named a wrong file. The vmm, which loads the images, trusts none of
//! this and checks all of it again.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// An ELF file header of 64 bits (ELF-64 object file format, version 1.5, figure 2).
const FILE_HEADER: usize = 64;
/// A program header of the same (figure 6).
const PROGRAM_HEADER: usize = 56;
/// Most program headers looked at; a kernel has about five.
const MAX_PROGRAM_HEADERS: u16 = 64;
/// Most bytes of notes looked at; a kernel has about 500.
const MAX_NOTES: u64 = 64 << 10;
const EM_X86_64: u16 = 62;
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
/// Tells the 32-bit entry point of a PVH guest (xen/include/public/elfnote.h).
const XEN_ELFNOTE_PHYS32_ENTRY: u32 = 18;

/// Why a file is not the image that it should be.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// It can't be read.
    #[error("it can't be read")]
    Read(#[source] io::Error),
    /// It has no ELF magic.
    #[error("it is not an ELF file")]
    NotElf,
    /// It is an ELF file, but not of 64 bits for x86-64.
    #[error("it is an ELF file, but not one of 64 bits for x86-64")]
    WrongMachine,
    /// The ELF file ends before what its headers promise.
    #[error("it is cut short: {length} bytes, where its headers need {needed}")]
    Truncated {
        /// What is there.
        length: u64,
        /// What should be.
        needed: u64,
    },
    /// Its headers make no sense.
    #[error("its ELF headers make no sense")]
    BadHeaders,
    /// There is no PVH entry.
    #[error("it is an ELF file without a PVH entry note, so it can't be booted directly")]
    NoPvhNote,
    /// It is compressed.
    #[error("it is compressed ({format}); the guest's root is loaded uncompressed")]
    Compressed {
        /// The format.
        format: &'static str,
    },
    /// It is no cpio archive.
    #[error("it is not a cpio archive in the format \"newc\"")]
    NotCpio,
}

impl ImageError {
    /// What a person can do about it.
    #[must_use]
    pub const fn remedy(&self) -> &'static str {
        match self {
            Self::Read(_) => "check the file and the disk it is on",
            Self::NotElf | Self::WrongMachine => {
                "a guest kernel is the uncompressed file `vmlinux` of an x86-64 build, not bzImage; \
                 `make kernel` builds one"
            }
            Self::Truncated { .. } | Self::BadHeaders => {
                "copy or build it again; `make kernel` builds one"
            }
            Self::NoPvhNote => "build the kernel with CONFIG_PVH=y; `make kernel` does",
            Self::Compressed { .. } => "unpack it; `make rootfs` builds one",
            Self::NotCpio => "make it with `cpio -o -H newc`; `make rootfs` builds one",
        }
    }
}

/// Checks that `file` looks like a kernel that the vmm can boot.
///
/// # Errors
/// What is wrong with it.
pub fn check_kernel(file: &File) -> Result<(), ImageError> {
    let length = file.metadata().map_err(ImageError::Read)?.len();
    let header = read::<FILE_HEADER>(file, 0, length)?;
    if !header.starts_with(b"\x7fELF") {
        return Err(ImageError::NotElf);
    }
    // EI_CLASS 2 is 64 bits, EI_DATA 1 is little-endian.
    if header.get(4..6) != Some(&[2, 1]) || u16_at(&header, 18) != Some(EM_X86_64) {
        return Err(ImageError::WrongMachine);
    }
    let table = u64_at(&header, 32).ok_or(ImageError::BadHeaders)?;
    let entry_size = u16_at(&header, 54).ok_or(ImageError::BadHeaders)?;
    let count = u16_at(&header, 56).ok_or(ImageError::BadHeaders)?;
    if usize::from(entry_size) != PROGRAM_HEADER || !(1..=MAX_PROGRAM_HEADERS).contains(&count) {
        return Err(ImageError::BadHeaders);
    }
    let mut has_entry = false;
    for index in 0..u64::from(count) {
        let offset = index
            .checked_mul(u64::from(entry_size))
            .and_then(|distance| table.checked_add(distance))
            .ok_or(ImageError::BadHeaders)?;
        let header = read::<PROGRAM_HEADER>(file, offset, length)?;
        has_entry |= check_segment(file, length, &header)?;
    }
    if has_entry { Ok(()) } else { Err(ImageError::NoPvhNote) }
}

/// Checks that a segment lies in the file; tells whether it holds the PVH entry note.
fn check_segment(
    file: &File,
    length: u64,
    header: &[u8; PROGRAM_HEADER],
) -> Result<bool, ImageError> {
    let kind = u32_at(header, 0).ok_or(ImageError::BadHeaders)?;
    if kind != PT_LOAD && kind != PT_NOTE {
        return Ok(false);
    }
    let offset = u64_at(header, 8).ok_or(ImageError::BadHeaders)?;
    let size = u64_at(header, 32).ok_or(ImageError::BadHeaders)?;
    let end = offset.checked_add(size).ok_or(ImageError::BadHeaders)?;
    if end > length {
        return Err(ImageError::Truncated { length, needed: end });
    }
    if kind != PT_NOTE {
        return Ok(false);
    }
    // `min` bounds it far below any usize.
    let mut notes = vec![0; usize::try_from(size.min(MAX_NOTES)).unwrap_or(0)];
    file.read_exact_at(&mut notes, offset).map_err(ImageError::Read)?;
    Ok(has_pvh_entry(&notes))
}

/// Walks ELF notes: three words (name size, content size, type), then both padded to 4 bytes.
fn has_pvh_entry(mut notes: &[u8]) -> bool {
    loop {
        let (Some(name_size), Some(content_size), Some(kind)) =
            (u32_at(notes, 0), u32_at(notes, 4), u32_at(notes, 8))
        else {
            return false;
        };
        if kind == XEN_ELFNOTE_PHYS32_ENTRY && notes.get(12..16) == Some(b"Xen\0") {
            return true;
        }
        let next = padded(name_size)
            .checked_add(padded(content_size))
            .and_then(|size| size.checked_add(12))
            .and_then(|size| usize::try_from(size).ok());
        match next.and_then(|next| notes.get(next..)) {
            Some(rest) => notes = rest,
            None => return false,
        }
    }
}

fn padded(size: u32) -> u64 {
    u64::from(size).next_multiple_of(4)
}

/// Checks that `file` looks like a root that the vmm hands to the kernel.
///
/// # Errors
/// What is wrong with it.
pub fn check_root(file: &File) -> Result<(), ImageError> {
    let mut start = [0; 6];
    match file.read_exact_at(&mut start, 0) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            return Err(ImageError::NotCpio);
        }
        other => other.map_err(ImageError::Read)?,
    }
    // The magics of newc without and with checksums, then those of common compressions.
    let format = match &start {
        b"070701" | b"070702" => return Ok(()),
        [0x1f, 0x8b, ..] => "gzip",
        [0x28, 0xb5, 0x2f, 0xfd, ..] => "zstd",
        [0xfd, b'7', b'z', b'X', b'Z', 0] => "xz",
        [0x04, 0x22, 0x4d, 0x18, ..] | [0x02, 0x21, 0x4c, 0x18, ..] => "lz4",
        _ => return Err(ImageError::NotCpio),
    };
    Err(ImageError::Compressed { format })
}

/// Reads exactly `N` bytes at `offset` of a file that is `length` bytes long.
fn read<const N: usize>(file: &File, offset: u64, length: u64) -> Result<[u8; N], ImageError> {
    let mut bytes = [0; N];
    // N is one of two small constants.
    let needed = offset.checked_add(N as u64).ok_or(ImageError::BadHeaders)?;
    if needed > length && offset == 0 {
        // Too short for a header: say what it is, not what is missing of it.
        return Err(ImageError::NotElf);
    }
    if needed > length {
        return Err(ImageError::Truncated { length, needed });
    }
    file.read_exact_at(&mut bytes, offset).map_err(ImageError::Read)?;
    Ok(bytes)
}

fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    bytes.get(offset..)?.first_chunk().copied().map(u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    bytes.get(offset..)?.first_chunk().copied().map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    bytes.get(offset..)?.first_chunk().copied().map(u64::from_le_bytes)
}

#[cfg(test)]
#[path = "image_test.rs"]
mod tests;
