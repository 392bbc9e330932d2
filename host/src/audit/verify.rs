//! Checking a whole audit log, by the public half of the key alone.

use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Read as _};
use std::path::Path;

use serde::Serialize;

use super::head::{self, Head, Slot};
use super::key::PublicKey;
use super::log::{MAX_BEHIND, could_begin, segment_name, segment_number};
use super::record::{MAX_LINE, Place, Record};
use super::{AuditError, io_error};

/// Most findings: whoever reads these knows enough.
const MAX_FINDINGS: usize = 20;

/// Something that is not as it was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// In which file of the log.
    pub file: String,
    /// In which line, from 1; 0: not in a line.
    pub line: u64,
    /// What.
    pub what: String,
}

/// What was found out about a log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Outcome {
    /// How many records are there.
    pub records: u64,
    /// Number of the first one; others before it were dropped, as the log itself tells.
    pub first: u64,
    /// Number of the last one.
    pub last: u64,
    /// Its digest: whoever notes both elsewhere can compare them later.
    pub digest: String,
    /// Whether its writer ended; if not, it writes, or was killed.
    pub closed: bool,
    /// Bytes of a record that a crash cut; it was never told as done.
    pub cut_by_crash: u64,
    /// What is wrong.
    pub findings: Vec<Finding>,
}

impl Outcome {
    /// Whether the log is as it was written.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.findings.is_empty()
    }
}

struct Walk<'a> {
    key: &'a PublicKey,
    /// Gets every record that is as it was written.
    take: &'a mut dyn FnMut(Record),
    place: Place,
    /// The line before was wrong: what follows is compared with itself alone.
    lost: bool,
    /// Heads whose records must be met.
    awaited: Vec<Place>,
    /// What the log says that it dropped: up to this record, of this digest.
    dropped: Vec<(u64, String)>,
    records: u64,
    torn: u64,
    findings: Vec<Finding>,
}

/// Checks the log in `folder`. It may be written meanwhile.
///
/// # Errors
/// It can't be read.
pub fn verify(folder: &Path, key: &PublicKey) -> Result<Outcome, AuditError> {
    read_verified(folder, key, &mut drop)
}

/// The same, with each record that is as it was written, in their order. Whether they are all, the outcome tells: until
/// then nothing may come of them.
///
/// # Errors
/// It can't be read.
pub fn read_verified(
    folder: &Path,
    key: &PublicKey,
    take: &mut dyn FnMut(Record),
) -> Result<Outcome, AuditError> {
    let wrap = io_error("read", folder);
    let mut walk = Walk {
        key,
        take,
        place: Place::begin(String::new()),
        lost: false,
        awaited: Vec::new(),
        dropped: Vec::new(),
        records: 0,
        torn: 0,
        findings: Vec::new(),
    };
    let head = walk.head(folder).map_err(&wrap)?;
    let segments = walk.segments(folder).map_err(&wrap)?;
    let log = head.as_ref().map(|head| head.place.log.clone());
    let first = segments.first().copied().unwrap_or(1);
    walk.begin(folder, first, log).map_err(&wrap)?;
    let before = walk.place.clone();
    let last_segment = segments.last().copied();
    for number in segments {
        walk.segment(folder, number, Some(number) == last_segment).map_err(&wrap)?;
    }
    if first > 1 && !walk.dropped.contains(&(before.seq, before.digest)) {
        let what =
            format!("records before {first} are missing, and none says that they were dropped");
        walk.find(&segment_name(first), 1, what);
    }
    walk.end(folder, head.as_ref()).map_err(&wrap)?;
    Ok(Outcome {
        records: walk.records,
        first,
        last: walk.place.seq,
        digest: walk.place.digest,
        closed: head.is_some_and(|head| head.closed),
        cut_by_crash: walk.torn,
        findings: walk.findings,
    })
}

impl Walk<'_> {
    fn find(&mut self, file: &str, line: u64, what: impl Into<String>) {
        if self.findings.len() < MAX_FINDINGS {
            self.findings.push(Finding { file: file.to_owned(), line, what: what.into() });
        }
    }

    /// Reads the head, and notes what must come.
    fn head(&mut self, folder: &Path) -> io::Result<Option<Head>> {
        let slots = match head::read(&folder.join(head::FILE), self.key) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.find(head::FILE, 0, "it is missing");
                return Ok(None);
            }
            Err(error) => return Err(error),
            Ok(None) => {
                self.find(head::FILE, 0, "it has another size");
                return Ok(None);
            }
            Ok(Some(slots)) => slots,
        };
        let Some((newest, other)) = head::newest(slots) else {
            self.find(head::FILE, 0, "neither of its slots is this host's");
            return Ok(None);
        };
        self.awaited.push(newest.place.clone());
        match other {
            Slot::Head(older) if older.turn == newest.turn => {
                self.find(head::FILE, 0, "a slot comes twice");
            }
            Slot::Head(older) => self.awaited.push(older.place),
            Slot::Empty if newest.place.seq == 0 => {}
            Slot::Empty | Slot::Broken => self.find(head::FILE, 0, "one of its slots was changed"),
        }
        Ok(Some(newest))
    }

    fn segments(&mut self, folder: &Path) -> io::Result<Vec<u64>> {
        let mut numbers = Vec::new();
        for entry in fs::read_dir(folder)? {
            let name = entry?.file_name();
            match name.to_str().and_then(segment_number) {
                Some(number) => numbers.push(number),
                None if name == head::FILE => {}
                None => self.find(&name.to_string_lossy(), 0, "it is no file of a log"),
            }
        }
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// Finds where the first segment stands.
    fn begin(&mut self, folder: &Path, first: u64, log: Option<String>) -> io::Result<()> {
        let mut line = Vec::new();
        match File::open(folder.join(segment_name(first))) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            file => {
                BufReader::new(file?).take(MAX_LINE as u64).read_until(b'\n', &mut line)?;
            }
        }
        let record = Record::read(&line).ok();
        let said = record.as_ref().map(|record| record.log.clone());
        self.place = Place::begin(log.or(said).unwrap_or_default());
        if first > 1 {
            self.place.seq = first - 1;
            self.place.digest = record.map(|record| record.prev).unwrap_or_default();
        }
        self.meet();
        Ok(())
    }

    /// Compares with heads that count up to here.
    fn meet(&mut self) {
        let place = self.place.clone();
        let (here, later) = self.awaited.drain(..).partition(|head| head.seq == place.seq);
        self.awaited = later;
        let others: Vec<Place> = here;
        if others.iter().any(|head| *head != place) {
            self.find(head::FILE, 0, format!("it counts another record {}", place.seq));
        }
    }

    fn segment(&mut self, folder: &Path, number: u64, last: bool) -> io::Result<()> {
        let name = segment_name(number);
        let wanted = self.place.seq.saturating_add(1);
        if number != wanted && !self.lost {
            let what =
                format!("it begins with record {number}, and record {wanted} should be here");
            self.find(&name, 0, what);
            self.lost = true;
        }
        let mut input = BufReader::new(File::open(folder.join(&name))?);
        let mut line = Vec::new();
        for count in 1.. {
            line.clear();
            input.by_ref().take(MAX_LINE as u64).read_until(b'\n', &mut line)?;
            let Some(whole) = line.strip_suffix(b"\n") else {
                let torn = last && !self.lost && could_begin(&line, &self.place);
                if torn {
                    self.torn = line.len() as u64;
                } else if !line.is_empty() || (count == 1 && !last) {
                    self.find(&name, count, "it is cut, and not by a crash");
                }
                return Ok(());
            };
            self.line(&name, count, whole);
        }
        Ok(())
    }

    fn line(&mut self, name: &str, count: u64, line: &[u8]) {
        let said = Record::read(line).ok();
        if let (true, Some(said)) = (self.lost, &said) {
            self.place.seq = said.seq.saturating_sub(1);
            self.place.digest.clone_from(&said.prev);
        }
        match Record::check(line, &self.place, self.key) {
            Ok(record) => {
                self.lost = false;
                if record.kind == "pruned" {
                    let number = record.data.get("through").and_then(serde_json::Value::as_u64);
                    let digest = record.data.get("digest").and_then(serde_json::Value::as_str);
                    self.dropped.extend(number.zip(digest.map(str::to_owned)));
                }
                (self.take)(record);
            }
            Err(what) => {
                self.find(name, count, what);
                self.lost = true;
            }
        }
        self.place.pass(line);
        self.records = self.records.saturating_add(1);
        self.meet();
    }

    fn end(&mut self, folder: &Path, head: Option<&Head>) -> io::Result<()> {
        let last = self.place.seq;
        if let Some(missing) = self.awaited.iter().map(|head| head.seq).max() {
            let what = format!("records up to {missing} are missing: the log ends with {last}");
            self.find(head::FILE, 0, what);
        }
        let Some(head) = head else { return Ok(()) };
        // Whoever writes it now may have gone on.
        let now = head::read(&folder.join(head::FILE), self.key)?.and_then(head::newest);
        let now = now.map_or(head.place.seq, |(now, _)| now.place.seq.max(head.place.seq));
        let added = last.saturating_sub(now);
        if now == head.place.seq && head.closed && (added > 0 || self.torn > 0) {
            self.find(head::FILE, 0, "something was added after its writer had ended");
        } else if added > MAX_BEHIND {
            self.find(head::FILE, 0, format!("it is {added} records behind"));
        }
        Ok(())
    }
}
