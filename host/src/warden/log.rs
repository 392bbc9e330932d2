//! Logs on the disk: bounded, rotated, in the form of the Container Runtime Interface, which log
//! collectors read: `2026-01-01T12:00:00.000000000Z stdout F the line`, with `P` for a line that
//! goes on in the next record.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};

/// Largest log before it is rotated, in bytes; with the one before it, an agent has twice that on
/// the disk at most.
pub const MAX_LOG: u64 = 8 << 20;
/// Longest line of one record, in bytes; what is longer is cut into several.
pub const MAX_LINE: usize = 16 << 10;
/// What the log before is called: the log's name and this.
pub const ROTATED: &str = ".1";

/// Where a line comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Source {
    /// The agent's standard output.
    Stdout,
    /// The agent's standard error.
    Stderr,
}

impl Source {
    const fn word(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// A log that is being written.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    file: File,
    length: u64,
    most: u64,
    /// What has come of lines that have not ended.
    unfinished: HashMap<Source, Vec<u8>>,
}

impl Log {
    /// Opens a log, to go on at its end.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn open(path: &Path) -> io::Result<Self> {
        Self::open_bounded(path, MAX_LOG)
    }

    fn open_bounded(path: &Path, most: u64) -> io::Result<Self> {
        let file = File::options().create(true).append(true).mode(0o600).open(path)?;
        let length = file.metadata()?.len();
        Ok(Self { path: path.to_owned(), file, length, most, unfinished: HashMap::new() })
    }

    /// Takes what an agent has written.
    ///
    /// # Errors
    /// The file system refuses; the bytes are lost then.
    pub fn write(&mut self, source: Source, bytes: &[u8]) -> io::Result<()> {
        let mut records = Vec::new();
        let line = self.unfinished.entry(source).or_default();
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (text, ended) = match piece.split_last() {
                Some((b'\n', text)) => (text, true),
                _ => (piece, false),
            };
            let mut text = text;
            while line.len().saturating_add(text.len()) > MAX_LINE {
                let (now, rest) = text.split_at(MAX_LINE.saturating_sub(line.len()));
                line.extend_from_slice(now);
                records.extend(record(source, 'P', line));
                line.clear();
                text = rest;
            }
            line.extend_from_slice(text);
            if ended {
                records.extend(record(source, 'F', line));
                line.clear();
            }
        }
        self.append(&records)
    }

    /// Writes what has not ended in a line end: nothing more comes.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn finish(&mut self, source: Source) -> io::Result<()> {
        match self.unfinished.remove(&source) {
            Some(line) if !line.is_empty() => {
                let record = record(source, 'P', &line);
                self.append(&record)
            }
            _ => Ok(()),
        }
    }

    fn append(&mut self, records: &[u8]) -> io::Result<()> {
        if records.is_empty() {
            return Ok(());
        }
        // A crash between the two leaves no log, and the one before it.
        if self.length > self.most {
            let mut rotated = self.path.clone().into_os_string();
            rotated.push(ROTATED);
            std::fs::rename(&self.path, rotated)?;
            self.file = File::options().create(true).append(true).mode(0o600).open(&self.path)?;
            self.length = 0;
        }
        self.file.write_all(records)?;
        self.length = self.length.saturating_add(records.len() as u64);
        Ok(())
    }
}

fn record(source: Source, tag: char, line: &[u8]) -> Vec<u8> {
    let now: DateTime<Utc> = std::time::SystemTime::now().into();
    let time = now.to_rfc3339_opts(SecondsFormat::Nanos, true);
    let mut record = format!("{time} {} {tag} ", source.word()).into_bytes();
    record.extend_from_slice(line);
    record.push(b'\n');
    record
}

/// One record, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// When, as it is written.
    pub time: &'a [u8],
    /// Where it comes from.
    pub source: Source,
    /// Whether the line ends here.
    pub whole: bool,
    /// The text, without its end.
    pub text: &'a [u8],
}

/// Takes a line of a log apart; `None`: it is no record (a torn one, after a crash).
#[must_use]
pub fn parse(line: &[u8]) -> Option<Record<'_>> {
    let mut parts = line.splitn(4, |byte| *byte == b' ');
    let (time, source, tag, text) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let source = match source {
        b"stdout" => Source::Stdout,
        b"stderr" => Source::Stderr,
        _ => return None,
    };
    let whole = match tag {
        b"F" => true,
        b"P" => false,
        _ => return None,
    };
    Some(Record { time, source, whole, text })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(path: &Path) -> Vec<(Source, bool, Vec<u8>)> {
        let bytes = std::fs::read(path).unwrap();
        let lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        lines
            .map(|line| {
                let record = parse(line).unwrap();
                (record.source, record.whole, record.text.to_vec())
            })
            .collect()
    }

    #[test]
    fn lines_are_put_together_however_they_came() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.log");
        let mut log = Log::open(&path).unwrap();
        log.write(Source::Stdout, b"one\ntw").unwrap();
        log.write(Source::Stderr, b"bad\n").unwrap();
        log.write(Source::Stdout, b"o\n\nend").unwrap();
        log.finish(Source::Stdout).unwrap();
        let wanted: [(Source, bool, &[u8]); 5] = [
            (Source::Stdout, true, b"one"),
            (Source::Stderr, true, b"bad"),
            (Source::Stdout, true, b"two"),
            (Source::Stdout, true, b""),
            (Source::Stdout, false, b"end"),
        ];
        assert_eq!(texts(&path), wanted.map(|(a, b, c)| (a, b, c.to_vec())));
    }

    #[test]
    fn a_line_without_end_is_cut_into_records() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.log");
        let mut log = Log::open(&path).unwrap();
        log.write(Source::Stdout, &vec![b'x'; MAX_LINE * 2 + 5]).unwrap();
        log.write(Source::Stdout, b"y\n").unwrap();
        let lengths: Vec<_> = texts(&path).iter().map(|(_, whole, t)| (*whole, t.len())).collect();
        assert_eq!(lengths, [(false, MAX_LINE), (false, MAX_LINE), (true, 6)]);
    }

    #[test]
    fn a_flood_stays_within_the_bound() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.log");
        let mut log = Log::open_bounded(&path, 10_000).unwrap();
        for number in 0..2_000 {
            log.write(Source::Stdout, format!("line {number}\n").as_bytes()).unwrap();
        }
        let sizes: u64 =
            std::fs::read_dir(&folder).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).sum();
        assert!(sizes < 2 * (10_000 + 100), "{sizes}");
        assert_eq!(texts(&path).last().unwrap().2, b"line 1999");
        drop(log);
        let mut log = Log::open_bounded(&path, 10_000).unwrap();
        log.write(Source::Stdout, b"again\n").unwrap();
        assert_eq!(texts(&path).last().unwrap().2, b"again");
    }
}
