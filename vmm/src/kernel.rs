//! Loads the kernel, the root image and the command line into guest memory.

use std::fs::File;
use std::io::{self, Seek};
use std::ops::Range;

use linux_loader::loader::elf::{Elf, PvhBootCapability};
use linux_loader::loader::{Error as LoaderError, KernelLoader};
use vm_memory::{Bytes, GuestAddress, GuestMemoryError, GuestMemoryMmap};

use crate::memory::{BulkReader, PageMaker};
use crate::spec::VmSpec;
use crate::x86_64::boot_params::RootImage;
use crate::x86_64::layout;

/// The command line that every guest gets, with the reason of each word.
const CMDLINE: &str = include_str!("../../kernel-config/cmdline");
/// Alignment of the root image.
const PAGE: u64 = 4096;
/// Guest memory that must stay free beside kernel and root image: the kernel unpacks the image
/// before it gives its memory back.
const MIN_FREE: u64 = 8 << 20;

/// What the kernel keeps for each page of memory: `sizeof(struct page)` on x86-64.
const PAGE_DESCRIPTOR: u64 = 64;
/// Beside the page descriptors: per-CPU areas, hash tables and page tables of an early boot.
const EARLY_TABLES: u64 = 2 << 20;

/// Why kernel or root can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// linux-loader can't read the kernel.
    #[error("kernel: not a complete x86-64 ELF (vmlinux) that fits into guest memory")]
    Kernel(#[source] LoaderError),
    /// The kernel has no PVH entry.
    #[error("kernel: has no PVH entry note (XEN_ELFNOTE_PHYS32_ENTRY); build it with CONFIG_PVH=y")]
    NoPvhEntry,
    /// The entry lies outside of what was loaded.
    #[error("kernel: its PVH entry {0:#x} lies outside of what it loads")]
    Entry(u64),
    /// The root image does not fit.
    #[error(
        "root image of {image} bytes: does not fit into {memory} bytes of guest memory beside the kernel"
    )]
    RootTooLarge {
        /// Its size.
        image: u64,
        /// Guest memory below the MMIO gap.
        memory: u64,
    },
    /// The root image is empty.
    #[error("root image: is empty")]
    RootEmpty,
    /// Reading the root image failed.
    #[error("root image: reading it")]
    RootRead(#[source] io::Error),
    /// Copying the root image failed.
    #[error("root image: shorter than its size, or not readable")]
    RootCopy(#[source] GuestMemoryError),
    /// The command line did not fit.
    #[error("kernel command line: {0} bytes, at most {max} are allowed", max = layout::CMDLINE_MAX - 1)]
    CmdlineTooLong(usize),
    /// Writing into guest memory failed.
    #[error("writing boot parameters")]
    Write(#[source] GuestMemoryError),
}

/// Where things lie after loading.
#[derive(Clone, Copy, Debug)]
pub struct Loaded {
    /// The kernel's PVH entry, a guest physical address.
    pub entry: u64,
    /// The root image.
    pub root: RootImage,
}

/// Loads kernel, root image and command line.
///
/// # Errors
/// One of the images is not what it should be, or too large.
pub fn load(
    memory: &GuestMemoryMmap,
    spec: &VmSpec,
    kernel: &mut File,
    root: &mut File,
) -> Result<Loaded, ImageError> {
    let (entry, kernel_end) = load_kernel(memory, kernel)?;
    let root = load_root(memory, spec.memory_bytes(), root, kernel_end)?;
    PageMaker::new(memory).make(early_memory(spec.memory_bytes(), &root));
    let cmdline = command_line(spec)?;
    memory.write_slice(&cmdline, GuestAddress(layout::CMDLINE)).map_err(ImageError::Write)?;
    Ok(Loaded { entry, root })
}

fn load_kernel(memory: &GuestMemoryMmap, kernel: &mut File) -> Result<(u64, u64), ImageError> {
    let floor = Some(GuestAddress(layout::HIGH_RAM_START));
    let loaded = Elf::load(memory, None, &mut BulkReader::new(kernel, memory), floor)
        .map_err(ImageError::Kernel)?;
    let PvhBootCapability::PvhEntryPresent(entry) = loaded.pvh_boot_cap else {
        return Err(ImageError::NoPvhEntry);
    };
    if !(layout::HIGH_RAM_START..loaded.kernel_end).contains(&entry.0) {
        return Err(ImageError::Entry(entry.0));
    }
    Ok((entry.0, loaded.kernel_end))
}

/// Puts the root image at the end of the memory below the gap, out of the kernel's way.
fn load_root(
    memory: &GuestMemoryMmap,
    memory_bytes: u64,
    file: &mut File,
    kernel_end: u64,
) -> Result<RootImage, ImageError> {
    let bytes = file.metadata().map_err(ImageError::RootRead)?.len();
    if bytes == 0 {
        return Err(ImageError::RootEmpty);
    }
    let low_end = memory_bytes.min(layout::MMIO_GAP_START);
    let too_large = || ImageError::RootTooLarge { image: bytes, memory: low_end };
    let start = low_end.checked_sub(bytes).ok_or_else(too_large)? & !(PAGE - 1);
    let free = start.checked_sub(kernel_end).ok_or_else(too_large)?;
    if free < bytes.saturating_add(MIN_FREE) {
        return Err(too_large());
    }
    file.rewind().map_err(ImageError::RootRead)?;
    let count = usize::try_from(bytes).map_err(|_| too_large())?;
    memory
        .read_exact_volatile_from(GuestAddress(start), &mut BulkReader::new(file, memory), count)
        .map_err(ImageError::RootCopy)?;
    Ok(RootImage { start, bytes })
}

/// Where the kernel puts its page descriptors and first tables, all of which it writes at once: its
/// early allocator takes memory from the highest address down.
fn early_memory(memory_bytes: u64, root: &RootImage) -> Range<u64> {
    // The root image lies at the end of the range below the gap.
    let end = layout::ram_ranges(memory_bytes)
        .filter(|ram| ram.start >= layout::MMIO_GAP_END)
        .last()
        .map_or(root.start, |ram| ram.start + ram.bytes);
    let bytes = memory_bytes / PAGE * PAGE_DESCRIPTOR + EARLY_TABLES;
    end.saturating_sub(bytes)..end
}

/// The words of [`CMDLINE`] and the spec's, NUL-terminated.
fn command_line(spec: &VmSpec) -> Result<Vec<u8>, ImageError> {
    let base =
        CMDLINE.lines().filter(|line| !line.starts_with('#')).flat_map(str::split_whitespace);
    let words: Vec<&str> = base.chain(spec.extra_cmdline.split_whitespace()).collect();
    let mut line = words.join(" ").into_bytes();
    if line.len() >= layout::CMDLINE_MAX {
        return Err(ImageError::CmdlineTooLong(line.len()));
    }
    line.push(0);
    Ok(line)
}

#[cfg(test)]
#[path = "kernel_test.rs"]
mod tests;
