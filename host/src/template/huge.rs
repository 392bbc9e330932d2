//! Huge pages for the parts of a template's memory that machines only read, the kernel's program above all.
//!
//! KVM maps guest memory by 4 KiB, one page for each exit, but where the host's own page is a huge one (2 MiB). A file's
//! pages are what they were made as; where the file system can (tmpfs, Linux 6.1) the kernel makes huge ones of them when it
//! is asked, once for all machines. Elsewhere they stay small, and nothing else differs.
#![expect(unsafe_code, reason = "only a mapping of a file can be asked to have huge pages")]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::ptr;

use cloister_vmm::spec::WorkingSet;

use super::content;

/// What one huge page holds.
const HUGE: usize = 2 << 20;

/// Asks for huge pages for each whole extent of a file that is full and of which no page is written: so it takes no more
/// memory, and no machine has a reason to divide it.
///
/// # Errors
/// The file can't be read or mapped.
pub(super) fn gather(file: &File, written: &WorkingSet) -> io::Result<()> {
    let place = Place::new()?;
    for extent in quiet(file, written)? {
        place.gather(file, extent)?;
    }
    Ok(())
}

/// The extents, by their places in the file.
fn quiet(file: &File, written: &WorkingSet) -> io::Result<Vec<u64>> {
    let extent = |place: u64| place - place % HUGE as u64;
    let mut full = Vec::new();
    let mut current = (0, 0);
    content::pages(file, |place, bytes| {
        if current.0 != extent(place) {
            current = (extent(place), 0);
        }
        current.1 += bytes.len();
        if current.1 == HUGE {
            full.push(current.0);
        }
        Ok(())
    })?;
    let touched = |from: u64| {
        written.places().any(|place| place.start < from + HUGE as u64 && from < place.end)
    };
    full.retain(|from| !touched(*from));
    Ok(full)
}

/// Address space for one extent and what may be before it to the next multiple.
struct Place(*mut libc::c_void);

impl Place {
    fn new() -> io::Result<Self> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a fresh mapping at an address that the kernel chooses touches nothing.
        let start = unsafe { libc::mmap(ptr::null_mut(), 2 * HUGE, libc::PROT_NONE, flags, -1, 0) };
        if start == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(Self(start)) }
    }

    /// Maps one extent, where its address is a multiple of its size, and asks.
    fn gather(&self, file: &File, extent: u64) -> io::Result<()> {
        let offset = libc::off_t::try_from(extent).map_err(io::Error::other)?;
        let aligned = self.0.addr().next_multiple_of(HUGE) - self.0.addr();
        let (flags, read) = (libc::MAP_SHARED | libc::MAP_FIXED, libc::PROT_READ);
        let start = self.0.wrapping_byte_add(aligned);
        // SAFETY: at most HUGE bytes into a reservation of twice that, which only this value uses.
        let mapped = unsafe { libc::mmap(start, HUGE, read, flags, file.as_raw_fd(), offset) };
        if mapped == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // Not an error: a file system without huge pages says EINVAL, a host without free ones ENOMEM.
        // SAFETY: the range was mapped just above; this advice changes no content.
        unsafe { libc::madvise(mapped, HUGE, libc::MADV_COLLAPSE) };
        Ok(())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // SAFETY: the reservation with all that was mapped into it; no pointer to it is left.
        unsafe { libc::munmap(self.0, 2 * HUGE) };
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use super::*;

    #[test]
    fn extents_are_those_that_are_full_and_that_nobody_writes() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(7 * HUGE as u64 - 4096).unwrap();
        for extent in [0, 1, 3, 4, 6] {
            let bytes = vec![1; if extent == 6 { HUGE - 4096 } else { HUGE }];
            file.write_all_at(&bytes, extent * HUGE as u64).unwrap();
        }
        // A page of the fourth is empty, the first is written, the last is no whole one.
        file.write_all_at(&[0; 4096], 3 * HUGE as u64 + 8192).unwrap();
        let written = WorkingSet::of([511, 1024]);
        let found = quiet(&file, &written).unwrap();
        assert_eq!(found, [HUGE as u64, 4 * HUGE as u64]);
        gather(&file, &written).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, 4 * HUGE as u64).unwrap();
        assert_eq!(byte, [1]);
    }
}
