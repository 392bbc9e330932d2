//! Writes a paused machine's memory as [`crate::extents`] tell it.

use std::fs::File;
use std::io::{self, Write as _};
use std::ops::Range;

use vm_memory::{Bytes as _, GuestMemory as _, GuestMemoryMmap, GuestMemoryRegion as _};
use vm_memory::{GuestRegionMmap, MemoryRegionAddress};
use vmm_sys_util::seek_hole::SeekHole as _;

use crate::extents::{MAX_EXTENT_BYTES, extent_head};
use crate::memory::PAGE_BYTES;

const EMPTY_PAGE: [u8; PAGE_BYTES] = [0; PAGE_BYTES];

/// A machine's memory, to be written.
#[derive(Debug)]
pub(super) struct Whole {
    memory: GuestMemoryMmap,
    /// The file that it is, if it is one: a page that there is not would be made by reading it, so the file is asked first.
    file: Option<File>,
}

impl Whole {
    /// Of a machine that booted: its memory is a file.
    pub(super) fn shared(memory: &GuestMemoryMmap, file: File) -> Self {
        Self { memory: memory.clone(), file: Some(file) }
    }

    /// Of a machine that goes on from a saved one.
    pub(super) fn private(memory: &GuestMemoryMmap) -> Self {
        Self { memory: memory.clone(), file: None }
    }

    /// Writes all of it but the empty pages.
    pub(super) fn write(&mut self, mut to: File) -> io::Result<()> {
        let mut buffer = vec![0; MAX_EXTENT_BYTES];
        let (mut begin, mut regions) = (0, Vec::new());
        for region in self.memory.iter() {
            // The ranges of guest memory follow each other in the file.
            regions.push((begin, region));
            begin += region.len();
        }
        let size = begin;
        for (begin, region) in regions {
            let mut at = 0;
            while let Some(part) = next(&mut self.file, begin, at..region.len())? {
                let bytes = read(region, &part, &mut buffer)?;
                write_pages(bytes, begin + part.start, &mut to)?;
                at = part.end;
            }
        }
        to.write_all(&extent_head(size, 0))
    }
}

/// The next part of what is left of a region that may hold something; whole pages, at most as many as an extent has.
fn next(file: &mut Option<File>, begin: u64, left: Range<u64>) -> io::Result<Option<Range<u64>>> {
    let page = PAGE_BYTES as u64;
    let mut part = left.clone();
    if let Some(file) = file.as_mut().filter(|_| !left.is_empty()) {
        let end = begin + left.end;
        let data = file.seek_data(begin + left.start)?.unwrap_or(end).min(end);
        let hole = if data < end { file.seek_hole(data)?.unwrap_or(end).min(end) } else { end };
        part = data - data % page - begin..hole.next_multiple_of(page) - begin;
    }
    part.end = part.end.min(part.start.saturating_add(MAX_EXTENT_BYTES as u64));
    Ok(Some(part).filter(|part| !part.is_empty()))
}

fn read<'a>(
    region: &GuestRegionMmap,
    part: &Range<u64>,
    buffer: &'a mut [u8],
) -> io::Result<&'a [u8]> {
    let bytes = usize::try_from(part.end - part.start).map_err(io::Error::other)?;
    let buffer = buffer.get_mut(..bytes).ok_or(io::ErrorKind::InvalidInput)?;
    region.read_slice(buffer, MemoryRegionAddress(part.start)).map_err(io::Error::other)?;
    Ok(buffer)
}

/// Writes the pages that are not empty, those that follow each other as one extent.
fn write_pages(bytes: &[u8], place: u64, to: &mut File) -> io::Result<()> {
    let mut at = place;
    let is_empty = |page: &&[u8]| **page == EMPTY_PAGE;
    let pages: Vec<&[u8]> = bytes.chunks(PAGE_BYTES).collect();
    for run in pages.chunk_by(|one, next| is_empty(one) == is_empty(next)) {
        let length = (run.len() * PAGE_BYTES) as u64;
        if !run.first().is_some_and(is_empty) {
            to.write_all(&extent_head(at, length))?;
            let from = usize::try_from(at - place).map_err(io::Error::other)?;
            let extent = bytes.get(from..from + run.len() * PAGE_BYTES);
            to.write_all(extent.unwrap_or_default())?;
        }
        at += length;
    }
    Ok(())
}
