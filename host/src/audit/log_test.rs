//! What is written is whole; whatever is changed is found; a crash is told from a change.

use std::os::unix::fs::FileExt as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use super::*;
use crate::audit::verify::{Outcome, verify};

/// Small, so that a test fills it.
const SMALL: Limits = Limits { most: 2 << 20, when_full: WhenFull::Stop };

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

    fn open(&self, limits: Limits) -> Result<Log, AuditError> {
        Log::open(&self.folder(), HostKey::open(self.keys.path()).unwrap(), limits)
    }

    fn verify(&self) -> Outcome {
        let key = HostKey::open(self.keys.path()).unwrap();
        verify(&self.folder(), &key.public()).unwrap()
    }
}

fn entry(number: usize) -> Entry {
    Entry { agent: format!("a{}", number % 3), ..Entry::new("exited", format!("code {number}")) }
}

/// A small generator (Vigna's splitmix64), so that a failure can be repeated.
struct Random(u64);

impl Random {
    fn below(&mut self, most: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % most as u64).unwrap()
    }
}

#[test]
fn a_log_goes_on_over_lives_and_segments() {
    let bed = Bed::new();
    let big = || Entry::new("exec", "x".repeat(8000));
    for life in 0..3 {
        let mut log = bed.open(SMALL).unwrap();
        assert!(matches!(bed.open(SMALL), Err(AuditError::Busy(_))));
        for _ in 0..50 {
            log.append(big()).unwrap();
        }
        if life == 1 {
            // As a killed process leaves it.
            drop(log);
            assert!(!bed.verify().closed);
        } else {
            log.close().unwrap();
            assert!(bed.verify().closed);
        }
        let outcome = bed.verify();
        assert_eq!(outcome.findings, []);
        assert_eq!((outcome.first, outcome.last), (1, 1 + 50 * (life + 1)));
    }
    assert!(segments(&bed.folder()).unwrap().len() > 1);
}

#[test]
fn a_full_log_stops_or_drops_and_says_so() {
    let fill = |limits: Limits| {
        let bed = Bed::new();
        let mut log = bed.open(limits).unwrap();
        let filled = (0..600).try_for_each(|_| log.append(Entry::new("exec", "x".repeat(8000))));
        (bed, log, filled)
    };
    let (bed, mut log, filled) = fill(SMALL);
    assert!(matches!(filled, Err(AuditError::Full { .. })), "{filled:?}");
    log.append_last(Entry::new("team-ended", "the log is full")).unwrap();
    log.close().unwrap();
    assert_eq!(bed.verify().findings, []);
    // It can be opened, and takes nothing.
    assert!(matches!(bed.open(SMALL).unwrap().append(entry(0)), Err(AuditError::Full { .. })));

    let (bed, log, filled) = fill(Limits { when_full: WhenFull::DropOldest, ..SMALL });
    filled.unwrap();
    assert!(log.total <= SMALL.most);
    log.close().unwrap();
    let outcome = bed.verify();
    assert_eq!(outcome.findings, []);
    assert!(outcome.first > 100 && outcome.last > 600, "{outcome:?}");
    // The next one too can't be removed unnoticed.
    let all = segments(&bed.folder()).unwrap();
    fs::remove_file(bed.folder().join(segment_name(all[0].0))).unwrap();
    assert!(bed.verify().findings[0].what.contains("none says that they were dropped"));
}

#[test]
fn another_hosts_key_finds_nothing_right() {
    let (bed, other) = (Bed::new(), Bed::new());
    let mut log = bed.open(SMALL).unwrap();
    log.append(entry(1)).unwrap();
    log.close().unwrap();
    let key = HostKey::open(other.keys.path()).unwrap();
    assert!(!verify(&bed.folder(), &key.public()).unwrap().is_whole());
    let opened = Log::open(&bed.folder(), key, SMALL);
    assert!(matches!(opened, Err(AuditError::Changed { .. })));
}

/// Changes a file of the log; `false`: nothing came of it.
fn mutate(folder: &Path, random: &mut Random) -> (String, bool) {
    let mut names: Vec<_> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    let name = names[random.below(names.len())].clone();
    let path = folder.join(&name);
    let before = fs::read(&path).unwrap();
    let mut bytes = before.clone();
    let at = random.below(bytes.len());
    let lines: Vec<&[u8]> = before.split_inclusive(|byte| *byte == b'\n').collect();
    let (a, b) = (random.below(lines.len()), random.below(lines.len()));
    let what = match random.below(9) {
        0 | 1 => {
            bytes[at] ^= 1 << random.below(8);
            "flip"
        }
        2 => {
            bytes.truncate(at);
            "cut"
        }
        3 => {
            let mut swapped = lines.clone();
            swapped.swap(a, b);
            bytes = swapped.concat();
            "swap"
        }
        4 => {
            bytes.insert(at, u8::try_from(random.below(256)).unwrap());
            "insert"
        }
        5 => {
            let mut doubled = lines.clone();
            doubled.insert(b, lines[a]);
            bytes = doubled.concat();
            "insert a line"
        }
        6 => {
            let mut without = lines.clone();
            without.remove(a);
            bytes = without.concat();
            "remove a line"
        }
        7 => {
            let count = 1 + random.below(300);
            bytes.extend((0..count).map(|_| u8::try_from(random.below(256)).unwrap()));
            "append"
        }
        _ => {
            let end = at + random.below(before.len() - at) + 1;
            bytes.drain(at..end);
            "remove bytes"
        }
    };
    let changed = bytes != before;
    fs::write(&path, bytes).unwrap();
    (format!("{what} {at} of {}", name.display()), changed)
}

#[test]
fn ten_thousand_random_changes_are_all_found() {
    let halves = || (1..=2).map(|seed| std::thread::spawn(move || random_changes(seed, 5_000)));
    for half in halves().collect::<Vec<_>>() {
        half.join().unwrap();
    }
}

fn random_changes(seed: u64, count: usize) {
    let bed = Bed::new();
    // Two segments, so that there is a border.
    let mut log = bed.open(SMALL).unwrap();
    (0..6).for_each(|number| log.append(entry(number)).unwrap());
    log.length = u64::MAX;
    (0..4).for_each(|number| log.append(entry(number)).unwrap());
    log.close().unwrap();
    assert_eq!(bed.verify().findings, []);
    let files: Vec<(PathBuf, Vec<u8>)> = fs::read_dir(bed.folder())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.clone(), fs::read(path).unwrap()))
        .collect();
    assert_eq!(files.len(), 3);
    let mut random = Random(seed);
    let mut done = 0;
    while done < count {
        let (what, changed) = mutate(&bed.folder(), &mut random);
        if changed {
            let outcome = bed.verify();
            assert!(!outcome.is_whole(), "seed {seed}, change {done}: {what}");
            assert!(!outcome.findings[0].what.is_empty());
            done += 1;
        }
        for (path, bytes) in &files {
            fs::write(path, bytes).unwrap();
        }
    }
    // Whole files.
    for (path, bytes) in &files {
        fs::remove_file(path).unwrap();
        assert!(!bed.verify().is_whole(), "{}", path.display());
        fs::write(path, bytes).unwrap();
    }
    fs::write(bed.folder().join("more"), "").unwrap();
    assert!(!bed.verify().is_whole());
}

#[test]
fn a_record_cut_by_a_crash_is_told_from_a_change() {
    let bed = Bed::new();
    let mut log = bed.open(SMALL).unwrap();
    log.append(entry(1)).unwrap();
    log.sync().unwrap();
    log.append(entry(2)).unwrap();
    drop(log);
    let path = bed.folder().join(segment_name(1));
    let whole = fs::read(&path).unwrap();
    let begin =
        whole.len() - 1 - whole[..whole.len() - 1].iter().rev().position(|b| *b == b'\n').unwrap();
    for length in begin..whole.len() {
        fs::write(&path, &whole[..length]).unwrap();
        let outcome = bed.verify();
        assert_eq!(outcome.findings, [], "{length}");
        assert_eq!(outcome.cut_by_crash, (length - begin) as u64);
        assert_eq!(outcome.last, 2);
    }
    // One more byte off is a record that the head counts.
    fs::write(&path, &whole[..begin - 1]).unwrap();
    assert!(!bed.verify().is_whole());
    assert!(matches!(bed.open(SMALL), Err(AuditError::Changed { .. })));
    // Something else at that place.
    let mut other = whole[..begin].to_vec();
    other.extend(b"{\"log\":\"x");
    fs::write(&path, &other).unwrap();
    assert!(bed.verify().findings[0].what.contains("not by a crash"));
    assert!(matches!(bed.open(SMALL), Err(AuditError::Changed { .. })));
    // And it goes on where the crash was.
    fs::write(&path, &whole[..whole.len() - 9]).unwrap();
    bed.open(SMALL).unwrap().close().unwrap();
    let outcome = bed.verify();
    assert_eq!((outcome.findings.len(), outcome.cut_by_crash, outcome.last), (0, 0, 3));
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.lines().last().unwrap().contains("\"recovered\""));
}

#[test]
fn a_log_whose_making_was_cut_is_begun_again() {
    let bed = Bed::new();
    fs::create_dir(bed.folder()).unwrap();
    for length in [0, 100, 2 * head::SLOT] {
        fs::write(bed.folder().join(head::SCRATCH), vec![0; length]).unwrap();
        bed.open(SMALL).unwrap().close().unwrap();
        assert!(bed.verify().is_whole());
        assert_eq!(fs::read_dir(bed.folder()).unwrap().count(), 2);
        // An empty head is none that a crash leaves.
        fs::write(bed.folder().join(head::FILE), [0; 2 * head::SLOT]).unwrap();
        fs::remove_file(bed.folder().join(segment_name(1))).unwrap();
        assert!(!bed.verify().is_whole());
        assert!(matches!(bed.open(SMALL), Err(AuditError::Changed { .. })));
        fs::remove_file(bed.folder().join(head::FILE)).unwrap();
    }
}

/// The other side of the next test: writes, and says after each record that it is done.
#[test]
#[ignore = "only as the process that is killed"]
fn writer() {
    let Some(place) = std::env::var_os("AUDIT_TEST_PLACE") else { return };
    let (keys, logs) = (Path::new(&place).join("keys"), Path::new(&place).join("t"));
    let mut log = Log::open(&logs, HostKey::open(&keys).unwrap(), Limits::default()).unwrap();
    let told = File::options().write(true).open(Path::new(&place).join("told")).unwrap();
    loop {
        log.append(entry(1)).unwrap();
        told.write_all_at(&log.place.seq.to_le_bytes(), 0).unwrap();
    }
}

/// Records after which a new log is begun.
const LONG: u64 = 300;

#[test]
fn two_hundred_kills_lose_nothing_that_was_told_as_done() {
    let folder = TempDir::new().unwrap();
    let keys = folder.path().join("keys");
    fs::create_dir(&keys).unwrap();
    fs::write(folder.path().join("told"), [0; 8]).unwrap();
    let key = HostKey::open(&keys).unwrap();
    let mut random = Random(2);
    for kill in 0..200 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--ignored", "audit::log::tests::writer"])
            .env("AUDIT_TEST_PLACE", folder.path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        // Any moment, from its start on.
        std::thread::sleep(Duration::from_micros(random.below(40_000) as u64));
        child.kill().unwrap();
        child.wait().unwrap();
        if !folder.path().join("t").join(head::FILE).exists() {
            continue;
        }
        let outcome = verify(&folder.path().join("t"), &key.public()).unwrap();
        assert_eq!(outcome.findings, [], "kill {kill}");
        let told = fs::read(folder.path().join("told")).unwrap().try_into().unwrap();
        assert!(outcome.last >= u64::from_le_bytes(told), "kill {kill}: {outcome:?}");
        if outcome.last > LONG {
            // Each check takes as long as the log.
            fs::remove_dir_all(folder.path().join("t")).unwrap();
            fs::write(folder.path().join("told"), [0; 8]).unwrap();
        }
    }
}
