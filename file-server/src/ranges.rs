//! Which ranges of a file one process of the guest has locked, as its kernel and the host's count them: the last
//! word about a byte holds.

use crate::sys::Record;

/// Ranges that do not overlap, by where they begin.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranges(Vec<Record>);

impl Ranges {
    /// Takes a lock or an unlock that the kernel has granted.
    pub fn set(&mut self, record: Record) {
        let mut left: Vec<Record> = self.0.iter().flat_map(|old| without(*old, record)).collect();
        if !record.is_unlock() {
            left.push(record);
            left.sort_by_key(|range| range.start);
        }
        self.0.clear();
        for range in left {
            match self.0.last_mut() {
                Some(last) if last.kind == range.kind && follows(*last, range) => {
                    last.end = range.end;
                }
                _ => self.0.push(range),
            }
        }
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = Record> {
        self.0.iter().copied()
    }
}

/// What is left of a range beside another: at most a piece before it and a piece behind it.
fn without(old: Record, new: Record) -> impl Iterator<Item = Record> {
    if old.end < new.start || new.end < old.start {
        return [Some(old), None].into_iter().flatten();
    }
    let before = new.start.checked_sub(1).filter(|end| old.start <= *end);
    let behind = new.end.checked_add(1).filter(|start| *start <= old.end);
    let before = before.map(|end| Record { end, ..old });
    [before, behind.map(|start| Record { start, ..old })].into_iter().flatten()
}

fn follows(last: Record, range: Record) -> bool {
    last.end.checked_add(1) == Some(range.start)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES: usize = 12;

    /// Twenty thousand sequences of six words about twelve bytes, against a map of bytes.
    #[test]
    fn the_last_word_about_a_byte_holds() {
        let kinds = [libc::F_RDLCK, libc::F_WRLCK, libc::F_UNLCK].map(i32::unsigned_abs);
        let mut seed = 1_u64;
        let mut next = |most: usize| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            usize::try_from(seed >> 33).unwrap() % most
        };
        let number = |byte: usize| u64::try_from(byte).unwrap();
        for _ in 0..20_000 {
            let (mut ranges, mut bytes) = (Ranges::default(), [None; BYTES]);
            for _ in 0..6 {
                let (start, kind) = (next(BYTES), kinds[next(kinds.len())]);
                let end = start + next(BYTES - start);
                let record = Record::new(kind, number(start), number(end)).unwrap();
                ranges.set(record);
                bytes[start..=end].fill((!record.is_unlock()).then_some(kind));
            }
            let mut found = [None; BYTES];
            for range in ranges.iter() {
                for byte in range.start..=range.end {
                    assert_eq!(found[usize::try_from(byte).unwrap()].replace(range.kind), None);
                }
            }
            assert_eq!(found, bytes);
            let apart =
                |pair: &[Record]| pair[0].kind != pair[1].kind || !follows(pair[0], pair[1]);
            assert!(ranges.0.windows(2).all(apart), "{ranges:?}");
        }
    }

    #[test]
    fn the_last_byte_of_all_is_one() {
        let end = i64::MAX.unsigned_abs();
        let write = Record::new(libc::F_WRLCK.unsigned_abs(), 0, end).unwrap();
        let mut ranges = Ranges::default();
        ranges.set(write);
        ranges.set(Record { kind: libc::F_UNLCK.unsigned_abs(), start: end, end });
        assert_eq!(ranges.iter().collect::<Vec<_>>(), [Record { end: end - 1, ..write }]);
    }
}
