//! Reads a file into guest memory with all pages of each piece made at once.
//!
//! Without that every page costs a fault in the middle of `read`: half of what loading a kernel
//! takes.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

use vm_memory::bitmap::BitmapSlice;
use vm_memory::{ReadVolatile, VolatileMemoryError, VolatileSlice};

/// Smallest piece that is worth a system call of its own: four pages.
const WORTHWHILE_BYTES: usize = 4 * 4096;

/// A file to be read into guest memory.
#[derive(Debug)]
pub struct BulkReader<'a>(pub &'a mut File);

impl ReadVolatile for BulkReader<'_> {
    fn read_volatile<B: BitmapSlice>(
        &mut self,
        piece: &mut VolatileSlice<B>,
    ) -> Result<usize, VolatileMemoryError> {
        if piece.len() >= WORTHWHILE_BYTES {
            super::make_pages(piece);
        }
        self.0.read_volatile(piece)
    }
}

impl Read for BulkReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Seek for BulkReader<'_> {
    fn seek(&mut self, position: SeekFrom) -> io::Result<u64> {
        self.0.seek(position)
    }
}
