//! Reading a log's lines in their order, while it is written and while old segments of it are dropped.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use super::log::{segment_name, segments};
use super::record::{MAX_LINE, Record};
use super::{AuditError, io_error};

/// A line that is whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The number of its record; of what is none, the number that should be here.
    pub number: u64,
    /// Without its end.
    pub bytes: Vec<u8>,
    /// What it says; `None`: it is no record.
    pub record: Option<Record>,
}

/// Reads lines, and later those that came since.
#[derive(Debug)]
pub struct Reader {
    folder: PathBuf,
    at: Option<Segment>,
}

/// The segment that is being read. Its file stays readable when it is dropped meanwhile.
#[derive(Debug)]
struct Segment {
    first: u64,
    /// The number that the next line should have.
    number: u64,
    /// Where that begins.
    begin: u64,
    input: BufReader<File>,
}

impl Segment {
    /// The next line; `None`: it has not come, or not wholly.
    fn line(&mut self) -> io::Result<Option<Line>> {
        let mut bytes = Vec::new();
        self.input.by_ref().take(MAX_LINE as u64).read_until(b'\n', &mut bytes)?;
        let length = bytes.len() as u64;
        if bytes.pop() != Some(b'\n') {
            if length >= MAX_LINE as u64 {
                return Err(io::Error::other(format!("line {} is no record", self.number)));
            }
            // The rest of it may still come; or a crash had cut it, and the next writer takes it away.
            self.input.seek(SeekFrom::Start(self.begin))?;
            return Ok(None);
        }
        let record = Record::read(&bytes).ok();
        let number = record.as_ref().map_or(self.number, |record| record.seq);
        self.number = number.saturating_add(1);
        self.begin = self.begin.saturating_add(length);
        Ok(Some(Line { number, bytes, record }))
    }

    /// Goes to the first line of record `number` or a later one. Lines are not counted: some may have been taken out.
    fn seek(&mut self, number: u64) -> io::Result<()> {
        loop {
            let before = (self.number, self.begin);
            match self.line()? {
                Some(line) if line.number < number => {}
                _ => {
                    (self.number, self.begin) = before;
                    self.input.seek(SeekFrom::Start(self.begin))?;
                    return Ok(());
                }
            }
        }
    }
}

impl Reader {
    /// Before the first line of the log in `folder`.
    #[must_use]
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), at: None }
    }

    /// The log's directory.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The next line; `None`: there is no more for now.
    ///
    /// # Errors
    /// The log can't be read, or a line of it is longer than any record.
    pub fn line(&mut self) -> Result<Option<Line>, AuditError> {
        let wrap = io_error("read", &self.folder);
        loop {
            let Some(segment) = self.at.as_mut() else {
                if !self.open(0)? {
                    return Ok(None);
                }
                continue;
            };
            if let Some(line) = segment.line().map_err(&wrap)? {
                return Ok(Some(line));
            }
            let after = segment.first.saturating_add(1);
            let found = segments(&self.folder).map_err(&wrap)?;
            if !found.iter().any(|(first, _)| *first >= after) {
                return Ok(None);
            }
            // The writer has left this segment for good, and may have added to it since the look above.
            if let Some(line) = segment.line().map_err(&wrap)? {
                return Ok(Some(line));
            }
            if !self.open(after)? {
                return Ok(None);
            }
        }
    }

    /// Goes to where record `number` is, or would be.
    ///
    /// # Errors
    /// The log can't be read.
    pub fn seek(&mut self, number: u64) -> Result<(), AuditError> {
        let wrap = io_error("read", &self.folder);
        let found = segments(&self.folder).map_err(&wrap)?;
        let has = found.iter().map(|(first, _)| *first).rfind(|first| *first <= number);
        self.at = None;
        self.open(has.unwrap_or(0))?;
        self.at.as_mut().map_or(Ok(()), |segment| segment.seek(number)).map_err(&wrap)
    }

    /// Opens the first segment that is there and begins with record `least` or a later one.
    fn open(&mut self, least: u64) -> Result<bool, AuditError> {
        let wrap = io_error("read", &self.folder);
        for (first, _) in segments(&self.folder).map_err(&wrap)? {
            if first < least {
                continue;
            }
            match File::open(self.folder.join(segment_name(first))) {
                // Dropped meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                file => {
                    let input = BufReader::new(file.map_err(&wrap)?);
                    self.at = Some(Segment { first, number: first, begin: 0, input });
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }
}

#[cfg(test)]
#[path = "reader_test.rs"]
mod tests;
