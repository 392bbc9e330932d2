//! Which parts of a saved machine's memory file hold nothing.

use std::fs::File;
use std::io;
use std::ops::Range;

use vmm_sys_util::seek_hole::SeekHole as _;

use super::HUGE_BYTES;

/// How often a file is asked where it has data: a third of a microsecond each, and enough for 8 GiB that are full. What is
/// behind that counts as full.
const MAX_LOOKS: usize = 4096;

/// The empty parts of a memory file of this size, as they rise. Only such as begin and end where a huge page does, or where
/// the file ends: with one look for each of these a file in many pieces costs no more than another.
pub(super) fn holes(file: &mut File, size: u64) -> io::Result<Vec<Range<u64>>> {
    let unit = HUGE_BYTES as u64;
    let (mut holes, mut at) = (Vec::new(), 0);
    for _ in 0..MAX_LOOKS {
        if at >= size {
            break;
        }
        let data = file.seek_data(at)?.unwrap_or(size).min(size);
        let end = if data < size { data - data % unit } else { size };
        if at < end {
            holes.push(at..end);
        }
        at = (data - data % unit).saturating_add(unit);
    }
    Ok(holes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use super::*;

    const MIB: u64 = 1 << 20;

    fn file(size: u64, data: &[u64]) -> File {
        let file = super::super::sealed_file(size);
        data.iter().for_each(|place| file.write_all_at(&[1], *place).unwrap());
        file
    }

    #[test]
    fn parts_without_data_are_found_by_whole_huge_pages() {
        let found = |size, data: &[u64]| holes(&mut file(size, data), size).unwrap();
        assert_eq!(found(9 * MIB, &[]), vec![0..9 * MIB]);
        assert_eq!(found(9 * MIB, &[9 * MIB - 1]), vec![0..8 * MIB]);
        assert_eq!(found(9 * MIB, &[0]), vec![2 * MIB..9 * MIB]);
        assert_eq!(
            found(16 * MIB, &[0, 3 * MIB, 9 * MIB]),
            vec![4 * MIB..8 * MIB, 10 * MIB..16 * MIB]
        );
        let each: Vec<u64> = (0..8).map(|number| 2 * MIB * number + 5000).collect();
        assert_eq!(found(16 * MIB, &each), Vec::new());
    }
}
