//! One record of an audit log: a line of JSON, whose last value is the signature of all before it.
//!
//! ```text
//! {"log":"…","seq":7,"prev":"…","time":"…","kind":"exec","agent":"…","by":{…},"detail":"…","data":{…},"sig":"…"}
//! ```
//!
//! The line's own bytes are what is signed and what the next record's `prev` is the SHA-256 digest of, so
//! no form of JSON has to be agreed on to check one.

use std::borrow::Cow;
use std::collections::BTreeMap;

use chrono::{SecondsFormat, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::key::{HostKey, PublicKey, SIGNATURE};
use super::{from_hex, hex};
use crate::images::digest::Digest;

/// Longest line, its end included. More than an entry within [`MAX_DETAIL`] and [`MAX_DATA`] takes.
pub const MAX_LINE: usize = 64 << 10;
/// Longest text of an entry, in bytes.
pub const MAX_DETAIL: usize = 8 << 10;
/// Longest data of an entry, in bytes of JSON.
pub const MAX_DATA: usize = 32 << 10;
/// What a record's signature is for.
const PURPOSE: &str = "cloister audit record 1";
const BEFORE_SIGNATURE: &str = ",\"sig\":\"";
const AFTER_SIGNATURE: &str = "\"}";
/// Bytes at a line's end that are not signed.
const SUFFIX: usize = BEFORE_SIGNATURE.len() + 2 * SIGNATURE + AFTER_SIGNATURE.len();

/// Which log, in 32 hexadecimal digits: its first record makes it up.
pub type LogId = String;

/// Who asked for something: a process of the host, as the kernel tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct By {
    /// Its user.
    pub uid: u32,
    /// Its number then.
    pub pid: i32,
}

/// What is to be recorded.
#[derive(Clone, Debug, Default)]
pub struct Entry {
    /// What it is: a word with dashes.
    pub kind: Cow<'static, str>,
    /// Of which agent; empty: of the team.
    pub agent: String,
    /// Who asked for it, if it was a command of an operator.
    pub by: Option<By>,
    /// In words, for people.
    pub detail: String,
    /// For programs.
    pub data: BTreeMap<&'static str, Value>,
}

impl Entry {
    /// An entry of the team.
    #[must_use]
    pub fn new(kind: impl Into<Cow<'static, str>>, detail: impl Into<String>) -> Self {
        Self { kind: kind.into(), detail: detail.into(), ..Self::default() }
    }

    /// The same, of an agent.
    #[must_use]
    pub fn of(self, agent: &str) -> Self {
        Self { agent: agent.to_owned(), ..self }
    }

    /// The same, asked for by this process's user.
    #[must_use]
    pub fn by_me(self) -> Self {
        let by = By {
            uid: rustix::process::geteuid().as_raw(),
            pid: rustix::process::getpid().as_raw_nonzero().get(),
        };
        Self { by: Some(by), ..self }
    }

    /// The same, with one value more.
    #[must_use]
    pub fn with(mut self, key: &'static str, value: impl Into<Value>) -> Self {
        self.data.insert(key, value.into());
        self
    }
}

/// A record as it is read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Which log.
    pub log: LogId,
    /// Its number, from 1.
    pub seq: u64,
    /// Digest of the line before; of the first: zeros.
    pub prev: String,
    /// When: RFC 3339, UTC.
    pub time: String,
    /// What.
    pub kind: String,
    /// Of which agent.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub agent: String,
    /// Who asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<By>,
    /// In words.
    pub detail: String,
    /// For programs.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub data: BTreeMap<String, Value>,
    /// In hexadecimal digits.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub sig: String,
}

/// Where a record stands: after the one that has this number and this digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Which log.
    pub log: LogId,
    /// Number of the record before; 0: there is none.
    pub seq: u64,
    /// Digest of its line, in hexadecimal digits.
    pub digest: String,
}

impl Place {
    /// Before the first record.
    #[must_use]
    pub fn begin(log: LogId) -> Self {
        Self { log, seq: 0, digest: "0".repeat(64) }
    }

    /// How every next record begins.
    #[must_use]
    pub fn beginning(&self) -> String {
        let next = self.seq.saturating_add(1);
        format!(
            "{{\"log\":\"{}\",\"seq\":{next},\"prev\":\"{}\",\"time\":\"",
            self.log, self.digest
        )
    }

    /// Goes past a line, which is given without its end.
    pub fn pass(&mut self, line: &[u8]) {
        self.seq = self.seq.saturating_add(1);
        self.digest = Digest::of(line).hex();
    }
}

/// The line of an entry, without its end.
#[must_use]
pub fn line(place: &Place, entry: Entry, key: &HostKey) -> Vec<u8> {
    let mut detail = entry.detail;
    if detail.len() > MAX_DETAIL {
        detail.truncate(detail.floor_char_boundary(MAX_DETAIL));
        detail.push_str(" (cut)");
    }
    let mut data: BTreeMap<String, Value> =
        entry.data.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    let text = serde_json::to_vec(&data).unwrap_or_default();
    if text.len() > MAX_DATA {
        // What it was can still be shown by whoever has it.
        let digest = Digest::of(&text).to_string();
        data = BTreeMap::from([
            ("cut".to_owned(), Value::Bool(true)),
            ("bytes".to_owned(), text.len().into()),
            ("digest".to_owned(), digest.into()),
        ]);
    }
    let record = Record {
        log: place.log.clone(),
        seq: place.seq.saturating_add(1),
        prev: place.digest.clone(),
        time: Utc::now().to_rfc3339_opts(SecondsFormat::Nanos, true),
        kind: entry.kind.into_owned(),
        agent: entry.agent,
        by: entry.by,
        detail,
        data,
        sig: String::new(),
    };
    // Strings, numbers and maps with text as keys: this can't fail.
    let mut line = serde_json::to_vec(&record).unwrap_or_default();
    line.pop();
    let signature = key.sign(PURPOSE, &line);
    line.extend(BEFORE_SIGNATURE.as_bytes());
    line.extend(hex(&signature).as_bytes());
    line.extend(AFTER_SIGNATURE.as_bytes());
    line
}

impl Record {
    /// Checks a line, given without its end, that should follow `place`, and reads it.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn check(line: &[u8], place: &Place, key: &PublicKey) -> Result<Self, String> {
        let (signed, suffix) =
            line.split_at_checked(line.len().saturating_sub(SUFFIX)).unwrap_or_default();
        let signature = suffix
            .strip_prefix(BEFORE_SIGNATURE.as_bytes())
            .and_then(|rest| rest.strip_suffix(AFTER_SIGNATURE.as_bytes()))
            .and_then(from_hex::<SIGNATURE>)
            .ok_or("it does not end with a signature")?;
        if !key.has_signed(PURPOSE, signed, &signature) {
            return Err("its signature is not this host's of these bytes".into());
        }
        let record = Self::read(line)?;
        if record.log != place.log {
            return Err(format!("it is of another log, {}", record.log));
        }
        let wanted = place.seq.saturating_add(1);
        if record.seq != wanted {
            return Err(format!("it is record {}, and record {wanted} should be here", record.seq));
        }
        if record.prev != place.digest {
            return Err(format!("it follows another record {} than the one before it", place.seq));
        }
        Ok(record)
    }

    /// Reads a line and believes it.
    ///
    /// # Errors
    /// It is no record.
    pub fn read(line: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(line).map_err(|error| format!("it is no record: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_recorded_fits_a_line_and_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let key = HostKey::open(folder.path()).unwrap();
        let mut place = Place::begin("ab".repeat(16));
        let hostile = "\u{1}\"\\\n\u{2028}é".repeat(20_000);
        for entry in [
            Entry::new("plain", ""),
            Entry { agent: "a".into(), by: Some(By { uid: 0, pid: 7 }), ..Entry::new("x", "y") },
            Entry::new("long", hostile.clone()).with("long", hostile.clone()),
            Entry::new("list", "").with("list", vec!["a"; 3000]),
        ] {
            let line = line(&place, entry, &key);
            assert!(line.len() < MAX_LINE && !line.contains(&b'\n'), "{}", line.len());
            assert!(line.starts_with(place.beginning().as_bytes()));
            let record = Record::check(&line, &place, &key.public()).unwrap();
            assert_eq!(serde_json::to_vec(&record).unwrap(), line);
            place.pass(&line);
        }
    }
}
