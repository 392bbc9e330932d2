//! Guest memory: the host's memfd mapped between guard pages, below and above the MMIO gap.
//!
//! The mappings live until the process ends; nothing here is ever unmapped, so a guest address that
//! was checked once stays good.
#![expect(unsafe_code, reason = "mmap of guest memory between guard pages")]

mod bulk;

mod giver;

mod holes;

pub use bulk::{BulkReader, PageMaker};
pub use giver::Giver;

use std::fs::File;
use std::ops::Range;
use std::os::fd::AsRawFd;

use vm_memory::mmap::MmapRegionError;
use vm_memory::{
    GuestAddress, GuestMemory, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap, MmapRegion,
};

use crate::x86_64::layout::{self, RamRange};

/// Guest and host pages.
pub const PAGE_BYTES: usize = 4096;
/// Bytes on each side of a mapping that fault when touched: one page stops a linear overrun.
const GUARD_BYTES: usize = PAGE_BYTES;
/// What one entry of a second-level page table maps. The host maps guest memory by pieces of this
/// size where a guest address and the host's for it agree in their lower bits.
const HUGE_BYTES: usize = 2 << 20;

/// Why guest memory could not be mapped.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The descriptor is not a memory file sealed against resizing.
    #[error("memory descriptor: must be a memfd sealed against shrinking and growing")]
    NotSealed,
    /// The memory of a saved machine could be changed.
    #[error("memory descriptor: must be read-only, or a memfd sealed against writing and resizing")]
    Writable,
    /// The descriptor has another size than the spec.
    #[error("memory descriptor: holds {got} bytes, the spec says {want}")]
    Size {
        /// Bytes of the file.
        got: u64,
        /// Bytes of the spec.
        want: u64,
    },
    /// A system call failed.
    #[error("mapping guest memory: {step}")]
    System {
        /// Which one.
        step: &'static str,
        /// Its error.
        #[source]
        source: std::io::Error,
    },
    /// vm-memory refused a region.
    #[error("guest memory region")]
    Region(#[source] MmapRegionError),
    /// The regions don't make up an address space.
    #[error("guest memory map")]
    Map(#[source] vm_memory::GuestRegionCollectionError),
}

/// Maps `file` as the guest's memory of `size` bytes.
///
/// # Errors
/// The descriptor is not what the contract of [`crate::control::Command::Start`] says, or mapping
/// fails.
pub fn map(file: &File, size: u64) -> Result<GuestMemoryMmap, MemoryError> {
    check_sealed(file, size)?;
    map_ranges(file, size, libc::MAP_SHARED)
}

fn map_ranges(
    file: &File,
    size: u64,
    sharing: libc::c_int,
) -> Result<GuestMemoryMmap, MemoryError> {
    let mut regions = Vec::with_capacity(2);
    let mut offset = 0;
    for RamRange { start, bytes } in layout::ram_ranges(size) {
        let length =
            usize::try_from(bytes).map_err(|_| MemoryError::Size { got: bytes, want: size })?;
        let region = map_range(file, offset, length, sharing)?;
        offset += bytes;
        let region = GuestRegionMmap::new(region, GuestAddress(start))
            .ok_or(MemoryError::Size { got: bytes, want: size })?;
        regions.push(region);
    }
    GuestMemoryMmap::from_regions(regions).map_err(MemoryError::Map)
}

/// Maps a saved machine's memory of `size` bytes for one guest alone: what it writes nobody else sees, and the
/// file stays as it is.
///
/// # Errors
/// The descriptor is not what the contract of [`crate::control::Command::Fork`] says, or mapping fails.
pub fn map_private(file: &File, size: u64) -> Result<GuestMemoryMmap, MemoryError> {
    check_unwritable(file, size)?;
    map_ranges(file, size, libc::MAP_PRIVATE)
}

/// The same for a machine that can be saved: large parts of the file that are empty are memory without a file. They are
/// read then, and there is no other way to find out whether the guest has written them; of a file in memory each page
/// that is only read would be made.
///
/// # Errors
/// As [`map_private`].
pub fn map_private_savable(file: &mut File, size: u64) -> Result<GuestMemoryMmap, MemoryError> {
    let memory = map_private(file, size)?;
    let system = |step| move |source| MemoryError::System { step, source };
    let holes = holes::holes(file, size).map_err(system("looking for empty parts"))?;
    let mut begin = 0;
    for region in memory.iter() {
        let end = begin + region.len();
        for hole in &holes {
            let part = hole.start.max(begin)..hole.end.min(end);
            if !part.is_empty() {
                map_nothing(region, &(part.start - begin..part.end - begin))
                    .map_err(system("mmap of empty memory"))?;
            }
        }
        begin = end;
    }
    Ok(memory)
}

/// Puts memory without a file into the place of a part of a region, whose content is gone.
fn map_nothing(region: &GuestRegionMmap, part: &Range<u64>) -> std::io::Result<()> {
    let place = |place: u64| usize::try_from(place).map_err(std::io::Error::other);
    let (from, bytes) = (place(part.start)?, place(part.end - part.start)?);
    let start = region.as_ptr().wrapping_add(from);
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED;
    // SAFETY: the part lies inside the region's own mapping and stays mapped, as one of its pages is replaced by another.
    // Nothing here holds a reference to guest memory, and its content is the guest's.
    let mapped = unsafe { libc::mmap(start.cast(), bytes, prot, flags, -1, 0) };
    if mapped == libc::MAP_FAILED {
        return Err(std::io::Error::last_os_error());
    }
    // As of the file's part. In huge pages a guest that has touched little would have much.
    advise(start, bytes, libc::MADV_DONTDUMP);
    advise(start, bytes, libc::MADV_NOHUGEPAGE);
    Ok(())
}

/// Checks that a file has a size, and that nobody changes it by this descriptor, nor, if it is a memory file, by
/// any other. Of a file with a name its owner keeps it as it is.
fn check_unwritable(file: &File, want: u64) -> Result<(), MemoryError> {
    // SAFETY: F_GET_SEALS takes no argument and only reads the descriptor's state.
    let seals = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GET_SEALS) };
    let needed = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_FUTURE_WRITE;
    let sealed = seals >= 0 && seals & needed == needed;
    // SAFETY: F_GETFL takes no argument and only reads the descriptor's state.
    let flags = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETFL) };
    let read_only = flags >= 0 && flags & libc::O_ACCMODE == libc::O_RDONLY;
    if !sealed && !read_only {
        return Err(MemoryError::Writable);
    }
    check_size(file, want)
}

fn check_size(file: &File, want: u64) -> Result<(), MemoryError> {
    let got =
        file.metadata().map_err(|source| MemoryError::System { step: "fstat", source })?.len();
    if got == want { Ok(()) } else { Err(MemoryError::Size { got, want }) }
}

/// Checks that a memory file has a size and keeps it.
///
/// # Errors
/// It does not.
pub fn check_sealed(file: &File, want: u64) -> Result<(), MemoryError> {
    // SAFETY: F_GET_SEALS takes no argument and only reads the descriptor's state.
    let seals = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GET_SEALS) };
    let needed = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW;
    if seals < 0 || seals & needed != needed {
        return Err(MemoryError::NotSealed);
    }
    check_size(file, want)
}

/// Maps `bytes` of `file` from `offset` with a guard on both sides.
fn map_range(
    file: &File,
    offset: u64,
    bytes: usize,
    sharing: libc::c_int,
) -> Result<MmapRegion, MemoryError> {
    let system = |step| move |source| MemoryError::System { step, source };
    let room = bytes + HUGE_BYTES + 2 * GUARD_BYTES;
    let reserved = reserve(room).map_err(system("reserving address space"))?;
    let start = reserved.wrapping_add(GUARD_BYTES);
    // Both ranges of guest addresses begin at a multiple of HUGE_BYTES.
    let start = start.wrapping_add(start.addr().next_multiple_of(HUGE_BYTES) - start.addr());
    let offset = libc::off_t::try_from(offset)
        .map_err(|_| MemoryError::Size { got: offset, want: offset })?;
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    let flags = sharing | libc::MAP_NORESERVE | libc::MAP_FIXED;
    // SAFETY: the range lies inside the reservation made above, which nothing else uses, so
    // replacing its pages can't touch another mapping.
    let mapped = unsafe { libc::mmap(start.cast(), bytes, prot, flags, file.as_raw_fd(), offset) };
    if mapped == libc::MAP_FAILED {
        return Err(system("mmap of the memory file")(std::io::Error::last_os_error()));
    }
    // Guest memory is the guest's own business: it has no place in a core dump of the vmm.
    // SAFETY: the range was mapped just above; this advice changes no content.
    let advised = unsafe { libc::madvise(mapped, bytes, libc::MADV_DONTDUMP) };
    if advised != 0 {
        return Err(system("madvise")(std::io::Error::last_os_error()));
    }
    // SAFETY: `mapped` is a live mapping of exactly `bytes` with these flags, never unmapped.
    unsafe { MmapRegion::build_raw(mapped.cast(), bytes, prot, flags) }.map_err(MemoryError::Region)
}

/// Advises the kernel on pages of guest memory. What it can't do it leaves as it was: advice is about
/// speed alone.
fn advise(start: *mut u8, bytes: usize, advice: libc::c_int) {
    debug_assert!(start.addr().is_multiple_of(PAGE_BYTES));
    // SAFETY: the callers pass whole pages of one mapping of guest memory, which is never unmapped,
    // and advice that changes no content.
    unsafe { libc::madvise(start.cast(), bytes, advice) };
}

/// Address space without memory behind it.
fn reserve(bytes: usize) -> std::io::Result<*mut u8> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: a fresh anonymous mapping at an address that the kernel chooses touches nothing.
    let start = unsafe { libc::mmap(std::ptr::null_mut(), bytes, libc::PROT_NONE, flags, -1, 0) };
    if start == libc::MAP_FAILED { Err(std::io::Error::last_os_error()) } else { Ok(start.cast()) }
}

/// A sealed memory file for tests: what the host makes for a real start.
#[cfg(test)]
pub(crate) fn sealed_file(bytes: u64) -> File {
    use std::os::fd::FromRawFd;
    // SAFETY: the name is a C string; the call returns a new descriptor.
    let fd = unsafe {
        libc::memfd_create(c"guest".as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING)
    };
    assert!(fd >= 0);
    // SAFETY: `fd` is new and owned by nothing else.
    let file = unsafe { File::from_raw_fd(fd) };
    file.set_len(bytes).unwrap();
    // SAFETY: adds seals to a descriptor of our own.
    let sealed =
        unsafe { libc::fcntl(fd, libc::F_ADD_SEALS, libc::F_SEAL_SHRINK | libc::F_SEAL_GROW) };
    assert_eq!(sealed, 0);
    file
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use vm_memory::Bytes;

    use super::*;

    #[test]
    fn memory_lies_on_both_sides_of_the_gap() {
        let size = layout::MMIO_GAP_START + (64 << 20);
        let memory = map(&sealed_file(size), size).unwrap();
        assert_eq!(memory.num_regions(), 2);
        assert_eq!(memory.iter().map(GuestMemoryRegion::len).sum::<u64>(), size);
        memory.write_obj(7u64, GuestAddress(layout::MMIO_GAP_END)).unwrap();
        assert_eq!(memory.read_obj::<u64>(GuestAddress(layout::MMIO_GAP_END)).unwrap(), 7);
        assert!(memory.write_obj(7u64, GuestAddress(layout::MMIO_GAP_START)).is_err());
        assert!(memory.write_obj(7u64, GuestAddress(layout::MMIO_GAP_START - 4)).is_err());
    }

    #[test]
    fn host_and_guest_addresses_agree_below_a_huge_page() {
        let size = layout::MMIO_GAP_START + (3 << 20);
        let memory = map(&sealed_file(size), size).unwrap();
        for region in memory.iter() {
            assert!(region.as_ptr().addr().is_multiple_of(HUGE_BYTES));
            assert_eq!(region.start_addr().0 % (HUGE_BYTES as u64), 0);
        }
    }

    #[test]
    fn empty_parts_of_a_savable_machines_file_are_read_without_making_them() {
        use std::os::unix::fs::MetadataExt as _;
        // On both sides of the gap.
        let size = layout::MMIO_GAP_START + (64 << 20);
        let written = sealed_file(size);
        let places = [5000, 40 << 20, layout::MMIO_GAP_START - 1, layout::MMIO_GAP_START, size - 1];
        places.iter().for_each(|place| written.write_all_at(&[7], *place).unwrap());
        let path = format!("/proc/self/fd/{}", written.as_raw_fd());
        let mut file = File::open(path).unwrap();
        let blocks = written.metadata().unwrap().blocks();
        let memory = map_private_savable(&mut file, size).unwrap();
        let address = |place: u64| match place.checked_sub(layout::MMIO_GAP_START) {
            Some(behind) => GuestAddress(layout::MMIO_GAP_END + behind),
            None => GuestAddress(place),
        };
        for place in places {
            assert_eq!(memory.read_obj::<u8>(address(place)).unwrap(), 7, "{place:#x}");
        }
        for place in [4 << 20, 60 << 20, 1 << 30, layout::MMIO_GAP_START + (20 << 20)] {
            assert_eq!(memory.read_obj::<u64>(address(place)).unwrap(), 0);
            memory.write_obj(9_u64, address(place)).unwrap();
            assert_eq!(memory.read_obj::<u64>(address(place)).unwrap(), 9);
        }
        assert_eq!(written.metadata().unwrap().blocks(), blocks);
    }

    #[test]
    fn an_unsealed_or_wrongly_sized_file_is_refused() {
        let plain = File::open("/dev/zero").unwrap();
        assert!(matches!(map(&plain, 1 << 20), Err(MemoryError::NotSealed)));
        let small = sealed_file(1 << 20);
        assert!(matches!(map(&small, 2 << 20), Err(MemoryError::Size { .. })));
    }
}
