//! The pages that a machine which goes on from a saved one is known to write at once: plain data, bounded.
//!
//! It is about speed alone. A page that is missing from it is copied when the guest writes it; one that is in it for
//! nothing costs its copy.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::spec::SpecError;

/// Guest and host pages, in bytes.
const PAGE_BYTES: u64 = 4096;
/// Most ranges. Each costs a system call while the machine is built, and with up to seven bytes each (two numbers of
/// at most five and two bytes) all of them fit into half a message.
const MAX_RANGES: usize = 512;
/// Most pages of all ranges together: 8 MiB, six times what a fork writes up to a command's first output. So much memory a
/// list can make a machine take that it would not have taken.
const MAX_PAGES: u64 = 2048;

/// Pages that follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct PageRange {
    /// Number of the first in the file of the saved machine's memory.
    first: u32,
    /// How many.
    pages: u16,
}

impl PageRange {
    /// The number of the page behind it.
    fn end(self) -> u64 {
        u64::from(self.first) + u64::from(self.pages)
    }
}

/// Pages of a saved machine's memory, by their places in its file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkingSet(Vec<PageRange>);

impl WorkingSet {
    /// Of these pages, whose numbers rise; as many of them as the bounds let in.
    pub fn of(pages: impl IntoIterator<Item = u64>) -> Self {
        let mut ranges: Vec<PageRange> = Vec::new();
        let most = usize::try_from(MAX_PAGES).unwrap_or(usize::MAX);
        for page in pages.into_iter().take(most) {
            if let Some(last) = ranges.last_mut()
                && last.end() == page
            {
                // Never more than `MAX_PAGES`, for which an u16 has room.
                last.pages += 1;
                continue;
            }
            let Ok(first) = u32::try_from(page) else { break };
            if ranges.len() == MAX_RANGES {
                break;
            }
            ranges.push(PageRange { first, pages: 1 });
        }
        Self(ranges)
    }

    /// Checks every bound, and that the ranges rise and lie in a memory of this size.
    ///
    /// # Errors
    /// One does not hold.
    pub fn validate(&self, memory_bytes: u64) -> Result<(), SpecError> {
        let (mut behind, mut pages) = (0, 0);
        for range in &self.0 {
            if u64::from(range.first) < behind || range.pages == 0 {
                return Err(SpecError::WorkingSet);
            }
            behind = range.end();
            pages += u64::from(range.pages);
        }
        let fits = behind <= memory_bytes / PAGE_BYTES;
        if fits && pages <= MAX_PAGES && self.0.len() <= MAX_RANGES {
            Ok(())
        } else {
            Err(SpecError::WorkingSet)
        }
    }

    /// Its ranges, in bytes from the begin of the file.
    pub fn places(&self) -> impl Iterator<Item = Range<u64>> {
        self.0.iter().map(|range| u64::from(range.first) * PAGE_BYTES..range.end() * PAGE_BYTES)
    }

    /// How many pages it has.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.0.iter().map(|range| u64::from(range.pages)).sum()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MEMORY: u64 = 64 << 20;

    #[test]
    fn pages_that_follow_each_other_are_one_range() {
        let set = WorkingSet::of([0, 1, 2, 7, 9, 10]);
        let places: Vec<_> = set.places().collect();
        assert_eq!(places, [0..3 * 4096, 7 * 4096..8 * 4096, 9 * 4096..11 * 4096]);
        assert_eq!((set.pages(), set.validate(11 * 4096)), (6, Ok(())));
        assert_eq!(set.validate(10 * 4096), Err(SpecError::WorkingSet));
        assert_eq!(WorkingSet::default().validate(MEMORY), Ok(()));
    }

    #[test]
    fn what_is_made_is_within_the_bounds_and_fits_into_half_a_message() {
        let long = WorkingSet::of(0..1 << 20);
        let scattered = WorkingSet::of((0..1 << 20).map(|page| ((1 << 30) - (1 << 24)) + 3 * page));
        assert_eq!((long.pages(), scattered.pages()), (MAX_PAGES, MAX_RANGES as u64));
        for set in [long, scattered, WorkingSet::of([u64::MAX - 1, u64::MAX])] {
            assert_eq!(set.validate(u64::MAX), Ok(()));
            let bytes = postcard::to_allocvec(&set).unwrap();
            assert!(bytes.len() <= crate::control::MAX_MESSAGE / 2, "{}", bytes.len());
        }
    }

    #[test]
    fn each_bound_is_checked() {
        let range = |first, pages| PageRange { first, pages };
        for (what, ranges) in [
            ("empty", vec![range(5, 0)]),
            ("falling", vec![range(5, 1), range(4, 1)]),
            ("overlapping", vec![range(5, 2), range(6, 1)]),
            ("beyond the memory", vec![range(16384, 1)]),
            ("too many pages", vec![range(0, 2049)]),
            ("too many ranges", (0..513).map(|number| range(2 * number, 1)).collect()),
        ] {
            assert_eq!(WorkingSet(ranges).validate(MEMORY), Err(SpecError::WorkingSet), "{what}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_good_list_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(set) = postcard::from_bytes::<WorkingSet>(&bytes)
                && set.validate(MEMORY).is_ok()
            {
                prop_assert!(set.places().all(|place| place.start < place.end && place.end <= MEMORY));
                prop_assert!(set.pages() <= MAX_PAGES);
            }
        }
    }
}
