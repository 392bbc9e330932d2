//! Every record comes once and in order, and whatever is missing is told before what follows it.

use std::fs;
use std::path::PathBuf;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::audit::key::HostKey;
use crate::audit::limits::{Limits, WhenFull};
use crate::audit::log::{Log, segment_name, segments};
use crate::audit::record::Entry;

const SMALL: Limits = Limits { most: 2 << 20, when_full: WhenFull::DropOldest };

struct Bed {
    keys: TempDir,
    logs: TempDir,
}

impl Bed {
    fn new() -> Self {
        Self { keys: TempDir::new().unwrap(), logs: TempDir::new().unwrap() }
    }

    fn folder(&self) -> PathBuf {
        self.logs.path().join("t")
    }

    fn log(&self) -> Log {
        Log::open(&self.folder(), HostKey::open(self.keys.path()).unwrap(), SMALL).unwrap()
    }

    /// A log with so many records.
    fn with(count: u64) -> Self {
        let bed = Self::new();
        let mut log = bed.log();
        for number in 2..=count {
            log.append(Entry::new("exited", format!("code {number}"))).unwrap();
        }
        log.close().unwrap();
        bed
    }

    fn lines(&self) -> Vec<String> {
        let text = fs::read_to_string(self.folder().join(segment_name(1))).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    fn write(&self, lines: &[String]) {
        fs::write(self.folder().join(segment_name(1)), lines.join("\n") + "\n").unwrap();
    }
}

/// Numbers of records; of what is missing minus the first number.
fn all(source: &mut Source) -> Vec<i64> {
    let mut seen = Vec::new();
    while let Some(item) = source.item().unwrap() {
        seen.push(match item {
            Item::Record(passed) => i64::try_from(passed.record.seq).unwrap(),
            Item::Gap(gap) => -i64::try_from(gap.first).unwrap(),
        });
    }
    seen
}

#[test]
fn a_whole_log_has_no_gap_wherever_it_is_begun() {
    let bed = Bed::with(6);
    let folder = bed.folder();
    assert_eq!(all(&mut Source::whole(&folder)), [1, 2, 3, 4, 5, 6]);
    assert_eq!(all(&mut Source::since(&folder, 1).unwrap()), [1, 2, 3, 4, 5, 6]);
    assert_eq!(all(&mut Source::since(&folder, 5).unwrap()), [5, 6]);
    assert!(all(&mut Source::since(&folder, 8).unwrap()).is_empty());
    let mut source = Source::whole(&folder);
    assert_eq!(source.place(), None);
    let mut places = vec![];
    while source.item().unwrap().is_some() {
        places.push(source.place().cloned().unwrap());
    }
    for place in places {
        let rest: Vec<_> =
            (1..=6).filter(|number| *number > i64::try_from(place.seq).unwrap()).collect();
        assert_eq!(all(&mut Source::after(&folder, place.clone()).unwrap()), rest);
        source.back_to(Some(place)).unwrap();
        assert_eq!(all(&mut source), rest);
    }
}

#[test]
fn what_was_dropped_before_it_was_read_is_told() {
    let bed = Bed::new();
    let mut log = bed.log();
    let mut source = Source::whole(&bed.folder());
    assert_eq!(all(&mut source), [1]);
    let mut slow = Source::since(&bed.folder(), 2).unwrap();
    let place = source.place().cloned().unwrap();
    let mut seen = vec![1];
    while segments(&bed.folder()).unwrap()[0].0 == 1 {
        log.append(Entry::new("exec", "x".repeat(8000))).unwrap();
        seen.extend(all(&mut source));
    }
    // Who kept up has them all.
    let whole: Vec<_> = (1..=i64::try_from(seen.len()).unwrap()).collect();
    assert_eq!(seen, whole);
    let first = i64::try_from(segments(&bed.folder()).unwrap()[0].0).unwrap();
    // Who had nothing open is told what is missing; the log's own word about it comes later.
    for source in [&mut slow, &mut Source::after(&bed.folder(), place).unwrap()] {
        let seen = all(source);
        let dropped = seen.iter().position(|number| *number == -2);
        assert!(seen.contains(&first), "{seen:?}");
        assert_eq!(
            seen.iter().filter(|number| **number < 0).count(),
            usize::from(dropped.is_some())
        );
        assert_eq!(seen.last(), whole.last());
        assert!(dropped.is_some() || seen[0] == 2, "{seen:?}");
    }
    assert_eq!(all(&mut Source::whole(&bed.folder()))[0], first);
}

#[test]
fn what_was_changed_is_told() {
    type Change = fn(&mut Vec<String>);
    let changes: [(Change, &[i64]); 5] = [
        // One is none; is missing; was made up; comes twice; and the last one is none.
        (|lines| lines[2] = "x".into(), &[1, 2, -3, 4, 5, 6]),
        (|lines| drop(lines.remove(2)), &[1, 2, -3, 4, 5, 6]),
        (|lines| lines[2] = lines[2].replace("code 3", "code 4"), &[1, 2, 3, -4, 4, 5, 6]),
        (|lines| lines.insert(2, lines[1].clone()), &[1, 2, -3, 2, 3, 4, 5, 6]),
        (|lines| lines[5] = "{}".into(), &[1, 2, 3, 4, 5, -6]),
    ];
    for (number, (change, wanted)) in changes.into_iter().enumerate() {
        let bed = Bed::with(6);
        let mut lines = bed.lines();
        change(&mut lines);
        bed.write(&lines);
        let seen = all(&mut Source::whole(&bed.folder()));
        assert_eq!(seen, wanted, "change {number}");
    }
}

#[test]
fn a_place_in_another_log_or_after_the_end_is_told() {
    let (bed, other) = (Bed::with(6), Bed::with(3));
    let mut source = Source::whole(&bed.folder());
    all(&mut source);
    let place = source.place().cloned().unwrap();
    // Shorter than the place, and as long.
    assert_eq!(all(&mut Source::after(&other.folder(), place.clone()).unwrap()), [-7, 1, 2, 3]);
    // Whoever fails to hand that over is told again.
    let mut source = Source::after(&other.folder(), place.clone()).unwrap();
    assert!(matches!(source.item().unwrap(), Some(Item::Gap(_))));
    source.back_to(None).unwrap();
    assert_eq!(all(&mut source), [-7, 1, 2, 3]);
    let same = Place { seq: 2, ..place.clone() };
    assert_eq!(all(&mut Source::after(&other.folder(), same).unwrap()), [-3, 1, 2, 3]);
    // The same log, cut.
    let lines = bed.lines();
    bed.write(&lines[..4]);
    let error = Source::after(&bed.folder(), place.clone()).unwrap_err().to_string();
    assert!(error.contains("record 6 was handed over once"), "{error}");
    // And with another record in its place.
    let mut lines = lines;
    lines[5] = lines[5].replace("code 6", "code 7");
    bed.write(&lines);
    assert_eq!(all(&mut Source::after(&bed.folder(), place).unwrap()), [-6]);
}

proptest! {
    /// Whatever is in a log's files, reading ends and says nothing that is not there.
    #[test]
    fn any_bytes_are_read(parts in proptest::collection::vec(any::<Vec<u8>>(), 0..6), at in 0_u64..9) {
        let folder = TempDir::new().unwrap();
        for (number, bytes) in (1..).zip(&parts) {
            fs::write(folder.path().join(segment_name(number * 2)), bytes).unwrap();
        }
        let most = parts.iter().flatten().filter(|byte| **byte == b'\n').count() * 2;
        let seen = all(&mut Source::since(folder.path(), at).unwrap());
        prop_assert!(seen.len() <= most);
        let place = Place { log: "ab".repeat(16), seq: at, digest: "cd".repeat(32) };
        if let Ok(mut source) = Source::after(folder.path(), place) {
            prop_assert!(all(&mut source).len() <= most + 1);
        }
    }
}
