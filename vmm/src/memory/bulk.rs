//! Makes pages of guest memory beforehand, all at once and as large as the host has them, and reads
//! files into them.
//!
//! Without that every page costs a fault in the middle of `read`, half of what loading a kernel takes,
//! and another when the guest first touches it: with nested paging the dearest fault there is.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;

use vm_memory::bitmap::BitmapSlice;
use vm_memory::{
    GuestMemory, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap, ReadVolatile,
    VolatileMemoryError, VolatileSlice,
};

use super::{HUGE_BYTES, PAGE_BYTES, advise};

/// Smallest piece that is worth system calls of its own.
const WORTHWHILE_BYTES: usize = 4 * PAGE_BYTES;

/// A file to be read into guest memory.
#[derive(Debug)]
pub struct BulkReader<'a> {
    file: &'a mut File,
    pages: PageMaker,
}

impl<'a> BulkReader<'a> {
    /// Reads `file` into pieces of `memory`.
    pub fn new(file: &'a mut File, memory: &GuestMemoryMmap) -> Self {
        Self { file, pages: PageMaker::new(memory) }
    }
}

/// Makes pages of guest memory before anything touches them.
#[derive(Debug)]
pub struct PageMaker(Vec<Mapping>);

/// One range of guest memory in this process.
#[derive(Debug)]
struct Mapping {
    guest: u64,
    /// Its place in the memory file.
    file: u64,
    host: *mut u8,
    bytes: usize,
}

impl PageMaker {
    /// For pages of `memory`.
    pub fn new(memory: &GuestMemoryMmap) -> Self {
        let mut file = 0;
        let mapping = |region: &GuestRegionMmap| {
            let begin = file;
            // The ranges of guest memory follow each other in the file.
            file += region.len();
            let bytes = usize::try_from(region.len()).ok()?;
            Some(Mapping {
                guest: region.start_addr().0,
                file: begin,
                host: region.as_ptr(),
                bytes,
            })
        };
        Self(memory.iter().filter_map(mapping).collect())
    }

    /// Those of a range of guest addresses, as far as there is memory.
    pub fn make(&self, guest: Range<u64>) {
        for mapping in &self.0 {
            mapping.make(within(mapping.guest, &guest));
        }
    }

    /// Copies pages of a privately mapped memory file, as a write to each would; nobody else sees the copies. `place` are
    /// whole pages of the file.
    pub fn copy(&self, place: &Range<u64>) {
        for mapping in &self.0 {
            let range = within(mapping.file, place);
            let range = range.start..range.end.min(mapping.bytes);
            if !range.is_empty() {
                mapping.populate(&outward(&range, PAGE_BYTES));
            }
        }
    }

    /// Those that a piece of guest memory lies in.
    fn make_for<B: BitmapSlice>(&self, piece: &VolatileSlice<B>) {
        let at = piece.ptr_guard_mut().as_ptr().addr();
        for mapping in &self.0 {
            if let Some(begin) = at.checked_sub(mapping.host.addr()) {
                mapping.make(begin..begin.saturating_add(piece.len()));
            }
        }
    }
}

impl Mapping {
    /// Huge pages where they fit, and small ones for the rest of the range.
    fn make(&self, range: Range<usize>) {
        let range = range.start..range.end.min(self.bytes);
        if !range.is_empty() {
            self.make_huge(outward(&range, HUGE_BYTES));
            self.populate(&outward(&range, PAGE_BYTES));
        }
    }

    /// The last pages of a mapping that is no multiple of a huge page stay small.
    ///
    /// A memory file has small pages unless the host's administrator wished otherwise for all such
    /// files; only collapsing them is open to everyone (`MADV_COLLAPSE`, Linux 6.1). An extent
    /// without any page has nothing to collapse, so each gets one first.
    fn make_huge(&self, range: Range<usize>) {
        let range = range.start..range.end.min(self.bytes - self.bytes % HUGE_BYTES);
        if range.is_empty() {
            return;
        }
        for extent in range.clone().step_by(HUGE_BYTES) {
            self.populate(&(extent..extent + PAGE_BYTES));
        }
        self.advise(&range, libc::MADV_COLLAPSE);
    }

    /// Makes and maps pages. Linux before 5.14 doesn't know how: they come one by one then.
    fn populate(&self, range: &Range<usize>) {
        self.advise(range, libc::MADV_POPULATE_WRITE);
    }

    fn advise(&self, range: &Range<usize>, advice: libc::c_int) {
        advise(self.host.wrapping_add(range.start), range.len(), advice);
    }
}

/// A range as it lies in a mapping that begins at `begin`. What lies before that counts for nothing.
fn within(begin: u64, range: &Range<u64>) -> Range<usize> {
    let place = |place: u64| usize::try_from(place.saturating_sub(begin)).unwrap_or(usize::MAX);
    place(range.start)..place(range.end)
}

/// `range` with its ends moved outward to multiples of `unit`.
const fn outward(range: &Range<usize>, unit: usize) -> Range<usize> {
    range.start - range.start % unit..range.end.next_multiple_of(unit)
}

impl ReadVolatile for BulkReader<'_> {
    fn read_volatile<B: BitmapSlice>(
        &mut self,
        piece: &mut VolatileSlice<B>,
    ) -> Result<usize, VolatileMemoryError> {
        if piece.len() >= WORTHWHILE_BYTES {
            self.pages.make_for(piece);
        }
        self.file.read_volatile(piece)
    }
}

impl Read for BulkReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.read(buffer)
    }
}

impl Seek for BulkReader<'_> {
    fn seek(&mut self, position: SeekFrom) -> io::Result<u64> {
        self.file.seek(position)
    }
}
