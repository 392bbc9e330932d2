//! Any bytes as a saved memory, as the host reads it from a vmm: each extent lies in the memory, behind the one before and
//! within the longest; nothing follows the last.
#![no_main]

use cloister_vmm::spec::{EXTENT_HEAD_BYTES, Extents, MAX_EXTENT_BYTES, extent_head};
use libfuzzer_sys::fuzz_target;

const MEMORY: u64 = 64 << 20;

fuzz_target!(|input: &[u8]| {
    // Heads alone, in whose place no mutation has to find a page of bytes.
    let (mut extents, mut behind, mut ended) = (Extents::of(MEMORY), 0, false);
    for head in input.as_chunks::<EXTENT_HEAD_BYTES>().0 {
        match extents.next(head) {
            Ok(Some(place)) => {
                assert!(!ended && behind <= place.start && place.start < place.end);
                assert!(place.end <= MEMORY && place.end - place.start <= MAX_EXTENT_BYTES as u64);
                assert!(place.start % 4096 == 0 && place.end % 4096 == 0);
                assert_eq!(extent_head(place.start, place.end - place.start), *head);
                behind = place.end;
            }
            Ok(None) => {
                assert!(!ended && *head == extent_head(MEMORY, 0));
                ended = true;
            }
            Err(_) => {}
        }
    }
});
