//! Records in their order, each once, and what is missing between them: nothing is left out unsaid.

use std::path::Path;

use crate::audit::AuditError;
use crate::audit::reader::Reader;
use crate::audit::record::{Place, Record};
use crate::images::digest::Digest;

/// A record that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passed {
    /// What it says.
    pub record: Record,
    /// Its bytes.
    pub line: Vec<u8>,
    /// Their SHA-256 digest, in hexadecimal digits.
    pub digest: String,
}

/// Records that should be here and are not, or are other ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// Of which log; empty: not known.
    pub log: String,
    /// Number of the first one that is missing.
    pub first: u64,
    /// Number of the last one; less than the first: none by number, but what follows is another log or was changed.
    pub last: u64,
    /// What happened, as far as it can be told.
    pub words: String,
}

/// What comes next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// A record.
    Record(Box<Passed>),
    /// Something is missing before the record that comes next.
    Gap(Gap),
}

/// Reads a log and holds each record against the one before it.
#[derive(Debug)]
pub struct Source {
    reader: Reader,
    /// What was passed last; an empty log or digest: not known. `None`: whatever the log begins with is right.
    place: Option<Place>,
    /// Read already, and told when what is missing before it was.
    held: Option<Box<Passed>>,
    /// What was found when it was opened, and after what it is to be told.
    found: Option<(Gap, Option<Place>)>,
    /// It was told.
    told: bool,
    /// What was read last is no record, as was told: nothing can follow it.
    lost: bool,
}

impl Source {
    /// From the log's first record on, whatever number it has.
    #[must_use]
    pub fn whole(folder: &Path) -> Self {
        Self {
            reader: Reader::new(folder),
            place: None,
            held: None,
            found: None,
            told: false,
            lost: false,
        }
    }

    /// From record `number` on.
    ///
    /// # Errors
    /// The log can't be read.
    pub fn since(folder: &Path, number: u64) -> Result<Self, AuditError> {
        let mut source = Self::whole(folder);
        let seq = number.saturating_sub(1);
        source.back_to(Some(Place { log: String::new(), seq, digest: String::new() }))?;
        Ok(source)
    }

    /// From the record after `place` on, if the log is still the one that had this record.
    ///
    /// # Errors
    /// The log can't be read, or ends before that record, so that it was cut.
    pub fn after(folder: &Path, place: Place) -> Result<Self, AuditError> {
        let mut source = Self::whole(folder);
        source.reader.seek(place.seq)?;
        let Some(line) = source.reader.line()? else {
            return Self::after_the_end(folder, &place);
        };
        let other = line.record.as_ref().is_some_and(|record| record.log != place.log);
        if other {
            return Ok(Self::anew(folder, &place));
        }
        let changed = line.number == place.seq && Digest::of(&line.bytes).hex() != place.digest;
        if changed {
            let words =
                format!("record {} is another one than the one that was handed over", place.seq);
            let (log, first, last) = (place.log.clone(), place.seq, place.seq);
            let place = Some(Place { digest: String::new(), ..place });
            source.found = Some((Gap { log, first, last, words }, place.clone()));
            source.back_to(place)?;
            return Ok(source);
        }
        source.back_to(Some(place))?;
        Ok(source)
    }

    /// A log without the record that was handed over last is another one, or was cut.
    fn after_the_end(folder: &Path, place: &Place) -> Result<Self, AuditError> {
        let first = Reader::new(folder).line()?.and_then(|line| line.record);
        if first.is_some_and(|record| record.log != place.log) {
            return Ok(Self::anew(folder, place));
        }
        let what = format!("record {} was handed over once, and the log ends before it", place.seq);
        Err(AuditError::Changed { path: folder.to_owned(), what })
    }

    /// The whole of another log than the one that has `place`.
    fn anew(folder: &Path, place: &Place) -> Self {
        let first = place.seq.saturating_add(1);
        let words = format!(
            "another log of this team begins: what the one before had after record {} is not here",
            place.seq
        );
        let gap = Gap { log: place.log.clone(), first, last: place.seq, words };
        Self { found: Some((gap, None)), ..Self::whole(folder) }
    }

    /// What was passed last.
    #[must_use]
    pub fn place(&self) -> Option<&Place> {
        self.place.as_ref()
    }

    /// Goes back to what follows `place`, to pass it once more.
    ///
    /// # Errors
    /// The log can't be read.
    pub fn back_to(&mut self, place: Option<Place>) -> Result<(), AuditError> {
        self.reader.seek(place.as_ref().map_or(0, |place| place.seq.saturating_add(1)))?;
        (self.place, self.held, self.lost, self.told) = (place, None, false, false);
        Ok(())
    }

    /// What comes next; `None`: there is no more for now.
    ///
    /// # Errors
    /// The log can't be read.
    pub fn item(&mut self) -> Result<Option<Item>, AuditError> {
        if let Some((gap, place)) = &self.found
            && !self.told
            && *place == self.place
        {
            self.told = true;
            return Ok(Some(Item::Gap(gap.clone())));
        }
        if let Some(passed) = self.held.take() {
            return Ok(Some(self.pass(passed)));
        }
        let Some(line) = self.reader.line()? else { return Ok(None) };
        let digest = Digest::of(&line.bytes).hex();
        let Some(record) = line.record else {
            return Ok(Some(Item::Gap(self.broken(line.number, digest))));
        };
        let gap = self.gap_before(&record);
        let passed = Box::new(Passed { record, line: line.bytes, digest });
        let Some(gap) = gap else { return Ok(Some(self.pass(passed))) };
        self.held = Some(passed);
        Ok(Some(Item::Gap(gap)))
    }

    fn pass(&mut self, passed: Box<Passed>) -> Item {
        let (log, seq) = (passed.record.log.clone(), passed.record.seq);
        self.place = Some(Place { log, seq, digest: passed.digest.clone() });
        self.lost = false;
        Item::Record(passed)
    }

    /// A line that is no record stands in the place of one.
    fn broken(&mut self, number: u64, digest: String) -> Gap {
        let log = self.place.take().map(|place| place.log).unwrap_or_default();
        let (first, last) = (number, number);
        self.place = Some(Place { log: log.clone(), seq: last, digest });
        self.lost = true;
        Gap { log, first, last, words: format!("what stands in place of record {last} is none") }
    }

    /// What is missing between the record that was passed last and this one.
    fn gap_before(&self, record: &Record) -> Option<Gap> {
        let place = self.place.as_ref()?;
        let first = place.seq.saturating_add(1);
        let last = record.seq.saturating_sub(1);
        let words = if !place.log.is_empty() && place.log != record.log {
            "another log of this team begins in the middle of the one before".to_owned()
        } else if record.seq > first {
            format!("records {first} to {last} were dropped from the log before they were read")
        } else if record.seq < first {
            format!("record {} comes again: the log was changed", record.seq)
        } else if !self.lost && !place.digest.is_empty() && place.digest != record.prev {
            format!("record {first} does not follow the record {} that was read", place.seq)
        } else {
            return None;
        };
        Some(Gap { log: record.log.clone(), first, last, words })
    }
}

#[cfg(test)]
#[path = "source_test.rs"]
mod tests;
