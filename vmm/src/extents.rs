//! A machine's memory as a stream of what is not empty in it: plain data, bounded.
//!
//! ```text
//!  0  place of the extent in the memory, in bytes
//!  8  its length, in bytes
//! 16  so many bytes
//! ```
//! Both numbers are little endian and whole pages. Extents rise and don't overlap; all between them is zeros. An empty
//! one at the memory's end is the last, so that a stream that was cut off is told from a whole one.

use std::ops::Range;

/// Guest and host pages, in bytes.
const PAGE_BYTES: u64 = 4096;
/// Bytes before an extent's own.
pub const EXTENT_HEAD_BYTES: usize = 16;
/// Longest extent: what reader and writer keep of it at once.
pub const MAX_EXTENT_BYTES: usize = 1 << 20;

/// Why a stream is no machine's memory.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExtentError {
    /// Of no length, or longer than one may be.
    #[error("saved memory: an extent of {bytes} bytes, which none has")]
    Length {
        /// Its length.
        bytes: u64,
    },
    /// Not of whole pages.
    #[error("saved memory: {bytes} bytes at {place:#x} are not whole pages")]
    Pages {
        /// Where it begins.
        place: u64,
        /// Its length.
        bytes: u64,
    },
    /// It comes again, or before the one that it follows.
    #[error("saved memory: an extent at {place:#x} after one that ends at {behind:#x}")]
    Order {
        /// Where it begins.
        place: u64,
        /// Where the one before it ends.
        behind: u64,
    },
    /// There is no such memory.
    #[error("saved memory: an extent at {place:#x}, beyond {memory_bytes} bytes of memory")]
    Beyond {
        /// Where it begins.
        place: u64,
        /// How much memory there is.
        memory_bytes: u64,
    },
    /// Something follows the last extent.
    #[error("saved memory: an extent after the last one")]
    AfterLast,
}

/// The head of an extent.
#[must_use]
pub fn extent_head(place: u64, bytes: u64) -> [u8; EXTENT_HEAD_BYTES] {
    let mut head = [0; EXTENT_HEAD_BYTES];
    for (half, number) in head.chunks_exact_mut(8).zip([place, bytes]) {
        half.copy_from_slice(&number.to_le_bytes());
    }
    head
}

/// Reads heads of a stream one after the other. Total: each is an extent that lies where one may be, or an error.
#[derive(Clone, Debug)]
pub struct Extents {
    memory_bytes: u64,
    /// Where the last extent ends.
    behind: u64,
    has_ended: bool,
}

impl Extents {
    /// Of a memory of this size.
    #[must_use]
    pub const fn of(memory_bytes: u64) -> Self {
        Self { memory_bytes, behind: 0, has_ended: false }
    }

    /// Where the bytes that follow this head belong; `None`: it is the last, and nothing may follow.
    ///
    /// # Errors
    /// There can't be such an extent here.
    pub fn next(
        &mut self,
        head: &[u8; EXTENT_HEAD_BYTES],
    ) -> Result<Option<Range<u64>>, ExtentError> {
        let [place, bytes] = numbers(head);
        if self.has_ended {
            return Err(ExtentError::AfterLast);
        }
        if bytes == 0 && place == self.memory_bytes {
            self.has_ended = true;
            return Ok(None);
        }
        if bytes == 0 || bytes > MAX_EXTENT_BYTES as u64 {
            return Err(ExtentError::Length { bytes });
        }
        if !place.is_multiple_of(PAGE_BYTES) || !bytes.is_multiple_of(PAGE_BYTES) {
            return Err(ExtentError::Pages { place, bytes });
        }
        if place < self.behind {
            return Err(ExtentError::Order { place, behind: self.behind });
        }
        let end = place.checked_add(bytes).filter(|end| *end <= self.memory_bytes);
        let Some(end) = end else {
            return Err(ExtentError::Beyond { place, memory_bytes: self.memory_bytes });
        };
        self.behind = end;
        Ok(Some(place..end))
    }
}

fn numbers(head: &[u8; EXTENT_HEAD_BYTES]) -> [u64; 2] {
    let [a, b, c, d, e, f, g, h, rest @ ..] = *head;
    [u64::from_le_bytes([a, b, c, d, e, f, g, h]), u64::from_le_bytes(rest)]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MEMORY: u64 = 64 << 20;
    const MOST: u64 = MAX_EXTENT_BYTES as u64;

    fn read(heads: &[(u64, u64)]) -> Vec<Result<Option<Range<u64>>, ExtentError>> {
        let mut extents = Extents::of(MEMORY);
        heads.iter().map(|(place, bytes)| extents.next(&extent_head(*place, *bytes))).collect()
    }

    #[test]
    fn extents_that_rise_are_read_up_to_the_last() {
        let heads = [(0, 4096), (4096, 8192), (MOST, MOST), (MEMORY - 4096, 4096), (MEMORY, 0)];
        let wanted = [0..4096, 4096..12288, MOST..2 * MOST, MEMORY - 4096..MEMORY];
        let wanted = wanted.into_iter().map(|place| Ok(Some(place))).chain([Ok(None)]);
        assert_eq!(read(&heads), wanted.collect::<Vec<_>>());
        assert_eq!(read(&[(MEMORY, 0)]), [Ok(None)]);
        assert_eq!(read(&[(MEMORY, 0), (MEMORY, 0)])[1], Err(ExtentError::AfterLast));
    }

    #[test]
    fn each_bound_is_checked() {
        let last = |heads: &[(u64, u64)]| read(heads).pop().unwrap().unwrap_err();
        assert_eq!(last(&[(0, 0)]), ExtentError::Length { bytes: 0 });
        assert_eq!(last(&[(MEMORY + 4096, 0)]), ExtentError::Length { bytes: 0 });
        let bytes = MOST + 4096;
        assert_eq!(last(&[(0, bytes)]), ExtentError::Length { bytes });
        assert_eq!(last(&[(0, u64::MAX)]), ExtentError::Length { bytes: u64::MAX });
        assert_eq!(last(&[(1, 4096)]), ExtentError::Pages { place: 1, bytes: 4096 });
        assert_eq!(last(&[(0, 4095)]), ExtentError::Pages { place: 0, bytes: 4095 });
        for place in [0, 4096] {
            let error = ExtentError::Order { place, behind: 8192 };
            assert_eq!(last(&[(0, 8192), (place, 4096)]), error);
        }
        for place in [MEMORY, u64::MAX - 4095, 1 << 63] {
            let error = ExtentError::Beyond { place, memory_bytes: MEMORY };
            assert_eq!(last(&[(place, 4096)]), error);
        }
        let place = MEMORY - 4096;
        assert_eq!(last(&[(place, 8192)]), ExtentError::Beyond { place, memory_bytes: MEMORY });
    }

    proptest! {
        #[test]
        fn whatever_is_read_lies_in_the_memory_and_rises(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let (mut extents, mut behind) = (Extents::of(MEMORY), 0);
            for head in bytes.as_chunks().0 {
                if let Ok(Some(place)) = extents.next(head) {
                    prop_assert!(behind <= place.start && place.start < place.end && place.end <= MEMORY);
                    prop_assert!(place.end - place.start <= MOST);
                    behind = place.end;
                }
            }
        }
    }
}
