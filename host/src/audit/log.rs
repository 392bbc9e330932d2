//! Writing an audit log: one process at a time, records first, then the head that counts them.

use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use super::head::{self, Head, HeadFile};
use super::key::{HostKey, random};
use super::limits::{Limits, WhenFull};
use super::record::{self, Entry, MAX_LINE, Place, Record};
use super::{AuditError, hex, io_error};

/// Most records that the head is behind: so many could be cut off unnoticed after a crash.
pub const MAX_BEHIND: u64 = 32;
/// Largest segment; a smaller log has four.
const MAX_SEGMENT: u64 = 8 << 20;
/// What the last words of a stopped team may take above the bound.
const RESERVE: u64 = 256 << 10;
const SUFFIX: &str = ".jsonl";
/// Digits of a segment's name, which is the number of its first record: enough for the largest.
const DIGITS: usize = 20;

/// A log that is being written.
#[derive(Debug)]
pub struct Log {
    folder: PathBuf,
    key: HostKey,
    limits: Limits,
    place: Place,
    segment: File,
    /// Bytes of the segment.
    length: u64,
    /// Bytes of all segments.
    total: u64,
    head: HeadFile,
    /// Number of the last record that the head counts.
    counted: u64,
    _lock: File,
}

/// A segment's name.
#[must_use]
pub fn segment_name(first: u64) -> String {
    format!("{first:0DIGITS$}{SUFFIX}")
}

/// The number of the first record, by a segment's name.
#[must_use]
pub fn segment_number(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(SUFFIX)?;
    let fits = digits.len() == DIGITS && digits.bytes().all(|byte| byte.is_ascii_digit());
    fits.then(|| digits.parse().ok()).flatten().filter(|number| *number > 0)
}

/// The segments of a log in their order: number of the first record, and size in bytes.
///
/// # Errors
/// The directory can't be read.
pub fn segments(folder: &Path) -> io::Result<Vec<(u64, u64)>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if let Some(number) = entry.file_name().to_str().and_then(segment_number) {
            all.push((number, entry.metadata()?.len()));
        }
    }
    all.sort_unstable();
    Ok(all)
}

impl Log {
    /// Opens a log to go on at its end, or begins one.
    ///
    /// # Errors
    /// The file system refuses, another process writes it, or its end is not what its head says.
    pub fn open(folder: &Path, key: HostKey, limits: Limits) -> Result<Self, AuditError> {
        let path = folder.join(head::FILE);
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(io_error("make", folder))?;
        // Its own file, so that a reader of the head disturbs nobody.
        let lock = File::open(folder).map_err(io_error("open", folder))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)
            .map_err(|_| AuditError::Busy(folder.to_owned()))?;
        let public = key.public();
        let changed =
            |what: &str| AuditError::Changed { path: folder.to_owned(), what: what.to_owned() };
        let known = match head::read(&path, &public) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(io_error("read", &path)(error)),
            Ok(None) => return Err(changed("its head has another size")),
            Ok(Some(slots)) => {
                let newest = head::newest(slots);
                Some(newest.ok_or_else(|| changed("its head is not this host's"))?.0)
            }
        };
        let segments = segments(folder).map_err(io_error("read", folder))?;
        let (place, torn) = match (&known, segments.last()) {
            (None, Some(_)) => return Err(changed("its head is missing")),
            (None, None) => (Place::begin(hex(&random::<16>()?)), 0),
            (Some(known), None) if known.place.seq == 0 => (known.place.clone(), 0),
            (Some(_), None) => return Err(changed("its records are missing")),
            (Some(known), Some((first, _))) => end_of(folder, *first, known)?,
        };
        let head = if known.is_some() {
            HeadFile::open(&path, &public)
        } else {
            HeadFile::create(folder, &place, &key)
        };
        let head = head.map_err(io_error("make", &path))?;
        let first = segments.last().map_or(1, |(first, _)| *first);
        let segment = open_segment(folder, first)?;
        let bytes = |file: &File| file.metadata().map(|metadata| metadata.len());
        let whole = bytes(&segment).map_err(io_error("look at", folder))?;
        let length = whole.saturating_sub(torn);
        segment.set_len(length).map_err(io_error("shorten", folder))?;
        let total: u64 = segments.iter().map(|(_, bytes)| bytes).sum();
        let counted = known.as_ref().map_or(0, |head| head.place.seq);
        let total = total.saturating_sub(torn);
        let mut log = Self {
            folder: folder.to_owned(),
            key,
            limits,
            place,
            segment,
            length,
            total,
            head,
            counted,
            _lock: lock,
        };
        if log.behind() > 0 || known.is_some_and(|head| head.closed) {
            // What a killed process had not counted; and it is open again before anything comes.
            log.sync()?;
        }
        if log.place.seq == 0 {
            let pem = log.key.public().pem();
            log.append(Entry::new("log-begun", "").with("public-key", pem))?;
        } else if torn > 0 {
            let words =
                format!("a crash had cut a record after {torn} bytes; it was never told as done");
            log.append(Entry::new("recovered", words))?;
        }
        Ok(log)
    }

    /// Records something. When it comes back, the record outlives this process; [`Self::sync`] makes it
    /// outlive the host.
    ///
    /// # Errors
    /// It can't be written, or the log is full.
    pub fn append(&mut self, entry: Entry) -> Result<(), AuditError> {
        self.append_within(entry, self.limits.most)
    }

    /// The same for the words about a team's end, for which there is room beyond the bound.
    ///
    /// # Errors
    /// It can't be written.
    pub fn append_last(&mut self, entry: Entry) -> Result<(), AuditError> {
        self.append_within(entry, self.limits.most.saturating_add(RESERVE))
    }

    fn append_within(&mut self, entry: Entry, most: u64) -> Result<(), AuditError> {
        // A pruned record may come on top.
        let room = 2 * MAX_LINE as u64;
        while self.total.saturating_add(room) > most {
            if !(self.limits.when_full == WhenFull::DropOldest && self.drop_oldest()?) {
                let (path, bytes) = (self.folder.clone(), self.limits.most);
                return Err(AuditError::Full { path, bytes });
            }
        }
        self.write(entry)
    }

    fn write(&mut self, entry: Entry) -> Result<(), AuditError> {
        if self.length > (self.limits.most / 4).min(MAX_SEGMENT) {
            self.sync()?;
            self.segment = open_segment(&self.folder, self.place.seq.saturating_add(1))?;
            self.length = 0;
        }
        let mut line = record::line(&self.place, entry, &self.key);
        let mut after = self.place.clone();
        after.pass(&line);
        line.push(b'\n');
        let written = self.segment.write_all(&line);
        if let Err(error) = written {
            // What came of it is cut off, so that the next one begins a line.
            self.segment.set_len(self.length).ok();
            return Err(io_error("write to", &self.folder)(error));
        }
        self.length = self.length.saturating_add(line.len() as u64);
        self.total = self.total.saturating_add(line.len() as u64);
        self.place = after;
        if self.behind() >= MAX_BEHIND { self.sync() } else { Ok(()) }
    }

    /// How many records the head does not count yet.
    #[must_use]
    pub const fn behind(&self) -> u64 {
        self.place.seq.saturating_sub(self.counted)
    }

    /// Makes what was recorded durable, and then the head that counts it.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn sync(&mut self) -> Result<(), AuditError> {
        self.put_head(false)
    }

    /// The same, for good.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn close(mut self) -> Result<(), AuditError> {
        self.put_head(true)
    }

    fn put_head(&mut self, closed: bool) -> Result<(), AuditError> {
        self.segment.sync_data().map_err(io_error("write to", &self.folder))?;
        self.head
            .write(&self.place, closed, &self.key)
            .map_err(io_error("write to", &self.folder))?;
        self.counted = self.place.seq;
        Ok(())
    }

    /// Removes the oldest segment. `false`: there is only one.
    fn drop_oldest(&mut self) -> Result<bool, AuditError> {
        let wrap = io_error("read", &self.folder);
        let segments = segments(&self.folder).map_err(&wrap)?;
        let [(first, bytes), (next, _), ..] = segments.as_slice() else { return Ok(false) };
        let digest = digest_before(&self.folder, *next).map_err(&wrap)?;
        let (through, count) = (next - 1, next - first);
        let entry = Entry::new("pruned", format!("the log was full: {count} records removed"))
            .with("through", through)
            .with("digest", digest);
        self.write(entry)?;
        // Told durably before it is so.
        self.sync()?;
        let path = self.folder.join(segment_name(*first));
        fs::remove_file(&path).map_err(io_error("remove", &path))?;
        self.total = self.total.saturating_sub(*bytes);
        Ok(true)
    }
}

fn open_segment(folder: &Path, first: u64) -> Result<File, AuditError> {
    let path = folder.join(segment_name(first));
    let file = File::options().create(true).append(true).mode(0o600).open(&path);
    let file = file.map_err(io_error("open", &path))?;
    // Its name too is to outlive the host.
    let folder_file = File::open(folder).map_err(io_error("open", folder))?;
    folder_file.sync_all().map_err(io_error("write", folder))?;
    Ok(file)
}

/// Of the record before a segment: what the segment's first record says.
fn digest_before(folder: &Path, first: u64) -> io::Result<String> {
    let file = File::open(folder.join(segment_name(first)))?;
    let mut line = Vec::new();
    BufReader::new(file).take(MAX_LINE as u64).read_until(b'\n', &mut line)?;
    Record::read(&line).map(|record| record.prev).map_err(io::Error::other)
}

/// Where a log ends, in its last segment, and how many bytes of a cut record are behind that.
fn end_of(folder: &Path, first: u64, head: &Head) -> Result<(Place, u64), AuditError> {
    let path = folder.join(segment_name(first));
    let wrap = io_error("read", &path);
    let changed = |what: String| AuditError::Changed { path: path.clone(), what };
    let file = File::open(&path).map_err(&wrap)?;
    let empty = file.metadata().map_err(&wrap)?.len() == 0;
    let digest = if empty {
        head.place.digest.clone()
    } else {
        digest_before(folder, first).map_err(|error| changed(error.to_string()))?
    };
    let mut place = Place { log: head.place.log.clone(), seq: first - 1, digest };
    let mut input = BufReader::new(file);
    let mut line = Vec::new();
    let mut seen = false;
    loop {
        seen |= place == head.place;
        if place.seq == head.place.seq && !seen {
            return Err(changed(format!("record {} is another one", place.seq)));
        }
        line.clear();
        let most = MAX_LINE as u64;
        input.by_ref().take(most).read_until(b'\n', &mut line).map_err(&wrap)?;
        let beginning = place.beginning();
        let Some(whole) = line.strip_suffix(b"\n") else { break };
        if !whole.starts_with(beginning.as_bytes()) {
            return Err(changed(format!("record {} is another one", place.seq.saturating_add(1))));
        }
        place.pass(whole);
    }
    if !seen {
        let (last, counted) = (place.seq, head.place.seq);
        return Err(changed(format!("it ends with record {last}, and had {counted}")));
    }
    if !could_begin(&line, &place) || (head.closed && (!line.is_empty() || place != head.place)) {
        return Err(changed("something was added to its end".into()));
    }
    Ok((place, line.len() as u64))
}

/// Whether bytes at a log's end may be what a crash left of a record.
#[must_use]
pub fn could_begin(bytes: &[u8], place: &Place) -> bool {
    let beginning = place.beginning().into_bytes();
    beginning.starts_with(bytes) || (bytes.starts_with(&beginning) && bytes.len() < MAX_LINE)
}

#[cfg(test)]
#[path = "log_test.rs"]
mod tests;
