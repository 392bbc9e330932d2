//! Gives pieces of guest memory back to the host. They read as zeros from then on.

use std::io;
use std::ops::Range;

use vm_memory::{GuestMemory as _, GuestMemoryMmap, GuestMemoryRegion as _, GuestRegionMmap};

use super::{HUGE_BYTES, map_nothing};

/// Most pieces of one machine's memory that get mappings of their own; 32 GiB of it, and with those between them half of the
/// mappings that Linux allows a process (`vm.max_map_count`).
const MAX_APART: usize = 16 << 10;

/// Gives memory back, by whole pieces of the size of a huge page.
#[derive(Debug)]
pub struct Giver {
    memory: GuestMemoryMmap,
    backing: Backing,
    given_bytes: u64,
}

/// What the memory is a mapping of.
#[derive(Debug)]
enum Backing {
    /// A file that is this guest's alone: what is taken out of it is gone.
    Own,
    /// A saved machine's file, which stays as it is. What the guest has written is gone by taking its pages away, but the
    /// file's bytes would come back. So the piece is memory without a file from then on.
    Saved {
        /// Which pieces of which region are that already.
        apart: Vec<Vec<bool>>,
        /// How many more may be.
        left: usize,
    },
}

impl Giver {
    /// Of memory that is mapped by [`super::map`].
    #[must_use]
    pub fn own(memory: &GuestMemoryMmap) -> Self {
        Self { memory: memory.clone(), backing: Backing::Own, given_bytes: 0 }
    }

    /// Of memory that is mapped by [`super::map_private`] or [`super::map_private_savable`].
    #[must_use]
    pub fn saved(memory: &GuestMemoryMmap) -> Self {
        let pieces = |region: &GuestRegionMmap| vec![false; region.size() / HUGE_BYTES];
        let backing =
            Backing::Saved { apart: memory.iter().map(pieces).collect(), left: MAX_APART };
        Self { memory: memory.clone(), backing, given_bytes: 0 }
    }

    /// How many bytes were given back, those that were given again counted again.
    #[must_use]
    pub fn given_bytes(&self) -> u64 {
        self.given_bytes
    }

    /// Gives back the whole pieces in a range of guest addresses. What else lies there stays as it is.
    ///
    /// # Errors
    /// The host's kernel could not.
    pub fn give(&mut self, guest: &Range<u64>) -> io::Result<()> {
        let Self { memory, backing, given_bytes } = self;
        for (index, region) in memory.iter().enumerate() {
            let begin = region.start_addr().0;
            let place =
                |address: u64| usize::try_from(address.saturating_sub(begin)).unwrap_or(usize::MAX);
            let first = place(guest.start).div_ceil(HUGE_BYTES);
            let behind = place(guest.end).min(region.size()) / HUGE_BYTES;
            if first < behind {
                let given = backing.give(index, region, first..behind)?;
                *given_bytes = given_bytes.saturating_add((given * HUGE_BYTES) as u64);
            }
        }
        Ok(())
    }
}

impl Backing {
    /// How many pieces were given back.
    fn give(
        &mut self,
        index: usize,
        region: &GuestRegionMmap,
        pieces: Range<usize>,
    ) -> io::Result<usize> {
        match self {
            Self::Own => advise(region, &pieces, libc::MADV_REMOVE).map(|()| pieces.len()),
            Self::Saved { apart, left } => {
                let apart = apart.get_mut(index).and_then(|apart| apart.get_mut(pieces.clone()));
                give_saved(region, pieces.start, apart.unwrap_or_default(), left)
            }
        }
    }
}

/// The pieces of a saved machine's memory from `first` on.
fn give_saved(
    region: &GuestRegionMmap,
    first: usize,
    apart: &mut [bool],
    left: &mut usize,
) -> io::Result<usize> {
    let (mut begin, mut given) = (first, 0);
    for run in apart.chunk_by_mut(|one, next| one == next) {
        let pieces = begin..begin + run.len();
        begin = pieces.end;
        if run.first() == Some(&true) {
            advise(region, &pieces, libc::MADV_DONTNEED)?;
            given += pieces.len();
            continue;
        }
        let count = run.len().min(*left);
        if let Some(run) = run.get_mut(..count).filter(|run| !run.is_empty()) {
            let end = pieces.start + count;
            map_nothing(region, &bytes(&(pieces.start..end)))?;
            run.fill(true);
            *left -= count;
            given += count;
        }
    }
    Ok(given)
}

/// Where pieces lie in their region.
fn bytes(pieces: &Range<usize>) -> Range<u64> {
    (pieces.start * HUGE_BYTES) as u64..(pieces.end * HUGE_BYTES) as u64
}

/// Unlike other advice this changes content, and must be taken.
fn advise(region: &GuestRegionMmap, pieces: &Range<usize>, advice: libc::c_int) -> io::Result<()> {
    let start = region.as_ptr().wrapping_add(pieces.start * HUGE_BYTES);
    // SAFETY: the pieces lie inside the region's mapping, which is never unmapped. Their content is the guest's, which gave it
    // up; nothing here holds a reference to guest memory.
    let advised = unsafe { libc::madvise(start.cast(), pieces.len() * HUGE_BYTES, advice) };
    if advised == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::{FileExt as _, MetadataExt as _};

    use proptest::prelude::*;
    use vm_memory::{Bytes as _, GuestAddress};

    use super::*;
    use crate::memory::{map, map_private, sealed_file};
    use crate::x86_64::layout::{MMIO_GAP_END, MMIO_GAP_START};

    const HUGE: u64 = HUGE_BYTES as u64;

    fn read(memory: &GuestMemoryMmap, at: u64) -> u64 {
        memory.read_obj(GuestAddress(at)).unwrap()
    }

    /// A file whose every huge page says its number, counted from 1.
    fn numbered(size: u64) -> File {
        let file = sealed_file(size);
        for at in (0..size).step_by(HUGE_BYTES) {
            file.write_all_at(&(at / HUGE + 1).to_le_bytes(), at).unwrap();
        }
        file
    }

    fn read_only(file: &File) -> File {
        use std::os::fd::AsRawFd as _;
        File::open(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap()
    }

    #[test]
    fn what_is_given_of_a_machines_own_file_is_gone_from_it() {
        let file = numbered(8 * HUGE);
        let memory = map(&file, 8 * HUGE).unwrap();
        let mut giver = Giver::own(&memory);
        let before = file.metadata().unwrap().blocks();
        // Two whole ones, and parts of two.
        giver.give(&(HUGE + 4096..4 * HUGE + 4096)).unwrap();
        assert!(file.metadata().unwrap().blocks() < before);
        let numbers: Vec<u64> = (0..8).map(|piece| read(&memory, piece * HUGE)).collect();
        assert_eq!(numbers, [1, 2, 0, 0, 5, 6, 7, 8]);
        assert_eq!(giver.given_bytes(), 2 * HUGE);
        memory.write_obj(9_u64, GuestAddress(2 * HUGE)).unwrap();
        assert_eq!(read(&memory, 2 * HUGE), 9);
    }

    #[test]
    fn what_is_given_of_a_saved_machine_never_shows_its_bytes_again() {
        let file = numbered(8 * HUGE);
        let memory = map_private(&read_only(&file), 8 * HUGE).unwrap();
        let mut giver = Giver::saved(&memory);
        memory.write_obj(77_u64, GuestAddress(3 * HUGE)).unwrap();
        for _ in 0..2 {
            giver.give(&(3 * HUGE..5 * HUGE)).unwrap();
            let numbers: Vec<u64> = (0..8).map(|piece| read(&memory, piece * HUGE)).collect();
            assert_eq!(numbers, [1, 2, 3, 0, 0, 6, 7, 8]);
            memory.write_obj(78_u64, GuestAddress(4 * HUGE)).unwrap();
        }
        // Some that have gone already, between some that have not.
        giver.give(&(2 * HUGE..7 * HUGE)).unwrap();
        let numbers: Vec<u64> = (0..8).map(|piece| read(&memory, piece * HUGE)).collect();
        assert_eq!(numbers, [1, 2, 0, 0, 0, 0, 0, 8]);
        let mut content = [0; 8];
        for piece in 0..8 {
            file.read_exact_at(&mut content, piece * HUGE).unwrap();
            assert_eq!(u64::from_le_bytes(content), piece + 1);
        }
    }

    #[test]
    fn both_sides_of_the_gap_are_given_and_nothing_else() {
        let size = MMIO_GAP_START + 3 * HUGE + 4096;
        let file = sealed_file(size);
        let memory = map(&file, size).unwrap();
        let places = [MMIO_GAP_START - HUGE, MMIO_GAP_END, MMIO_GAP_END + 3 * HUGE];
        for place in places {
            memory.write_obj(7_u64, GuestAddress(place)).unwrap();
        }
        for mut giver in [Giver::own(&memory), Giver::saved(&memory)] {
            giver.give(&(MMIO_GAP_START..MMIO_GAP_END)).unwrap();
            giver.give(&(u64::MAX - HUGE..u64::MAX)).unwrap();
            assert_eq!(giver.given_bytes(), 0);
        }
        let mut giver = Giver::own(&memory);
        giver.give(&(MMIO_GAP_START - HUGE..u64::MAX)).unwrap();
        // The last page is no whole piece.
        assert_eq!(places.map(|place| read(&memory, place)), [0, 0, 7]);
    }

    #[test]
    fn a_machine_gets_so_many_mappings_and_no_more() {
        let size = 4 * HUGE;
        let file = numbered(size);
        let memory = map_private(&read_only(&file), size).unwrap();
        let mut giver = Giver::saved(&memory);
        if let Backing::Saved { left, .. } = &mut giver.backing {
            *left = 2;
        }
        giver.give(&(HUGE..4 * HUGE)).unwrap();
        let numbers = || (0..4).map(|piece| read(&memory, piece * HUGE)).collect::<Vec<u64>>();
        assert_eq!((numbers(), giver.given_bytes()), (vec![1, 0, 0, 4], 2 * HUGE));
        memory.write_obj(8_u64, GuestAddress(HUGE)).unwrap();
        giver.give(&(0..4 * HUGE)).unwrap();
        assert_eq!((numbers(), giver.given_bytes()), (vec![1, 0, 0, 4], 4 * HUGE));
    }

    proptest! {
        #[test]
        fn any_ranges_give_whole_pieces_that_lie_in_them(
            ranges in proptest::collection::vec((0..9 * HUGE, 0..9 * HUGE), 0..6),
        ) {
            let file = numbered(8 * HUGE);
            let memory = map_private(&read_only(&file), 8 * HUGE).unwrap();
            let mut giver = Giver::saved(&memory);
            let mut wanted: Vec<u64> = (1..=8).collect();
            for (start, end) in ranges {
                giver.give(&(start..end)).unwrap();
                for (piece, number) in (0..8).zip(&mut wanted) {
                    if start <= piece * HUGE && (piece + 1) * HUGE <= end {
                        *number = 0;
                    }
                }
            }
            let numbers: Vec<u64> = (0..8).map(|piece| read(&memory, piece * HUGE)).collect();
            prop_assert_eq!(numbers, wanted);
        }
    }
}
