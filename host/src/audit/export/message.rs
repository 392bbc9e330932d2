//! A record on its way to a collector, in the parts that every protocol needs.
//!
//! Details and data hold what agents chose: names of files, hosts, arguments. So JSON goes out in printable ASCII, where
//! nothing can end a line, steer a terminal or change the order of letters, and the values beside it are cut to plain words.

use std::fmt::Write as _;

use serde_json::Value;

use super::severity::{self, GAP, Severity};
use super::source::{Gap, Passed};
use crate::audit::ocsf;
use crate::audit::record::Record;
use crate::images::digest::Digest;
use crate::text::printable_line;

/// Longest value beside the JSON, in characters: more than any name that a team file may have.
const MAX_VALUE: usize = 128;
/// Longest text for people, in characters; all of it is in the JSON.
const MAX_WORDS: usize = 2048;

/// What a message's JSON is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// An event of OCSF.
    Ocsf,
    /// The record as it is.
    Record,
}

/// A record in the parts of a message. All values are printable ASCII, the words for people printable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Which team's.
    pub team: String,
    /// Which agent's; empty: the team's.
    pub agent: String,
    /// What it is.
    pub kind: String,
    /// Its number.
    pub record: u64,
    /// SHA-256 digest of its line, in hexadecimal digits; empty: there is no line.
    pub digest: String,
    /// Which log.
    pub log: String,
    /// RFC 3339 with microseconds, UTC; `None`: the record says nothing that could be one.
    pub time: Option<String>,
    /// How much it matters.
    pub severity: Severity,
    /// For people, on one line.
    pub words: String,
    /// For programs, on one line.
    pub json: String,
}

impl Message {
    /// Of a record.
    #[must_use]
    pub fn of_record(team: &str, passed: &Passed, form: Form) -> Self {
        let json = json(team, &passed.line, &passed.record, form);
        Self::new(team, &passed.record, passed.digest.clone(), json)
    }

    /// What the exporter itself has to say. It is in no log and has no signature.
    #[must_use]
    pub fn of_gap(team: &str, gap: &Gap, now: String, form: Form) -> Self {
        let record = Record {
            log: gap.log.clone(),
            seq: gap.first,
            prev: String::new(),
            time: now,
            kind: GAP.to_owned(),
            agent: String::new(),
            by: None,
            detail: gap.words.clone(),
            data: [("first", gap.first), ("last", gap.last)]
                .map(|(key, number)| (key.to_owned(), Value::from(number)))
                .into(),
            sig: String::new(),
        };
        // Strings, numbers and maps with text as keys: this can't fail.
        let line = serde_json::to_vec(&record).unwrap_or_default();
        let json = json(team, &line, &record, form);
        Self::new(team, &record, String::new(), json)
    }

    fn new(team: &str, record: &Record, digest: String, json: String) -> Self {
        Self {
            team: plain(team),
            agent: plain(&record.agent),
            kind: plain(&record.kind),
            record: record.seq,
            digest,
            log: plain(&record.log),
            time: time(&record.time),
            severity: severity::of(&record.kind),
            words: shortened(for_people(record)),
            json,
        }
    }

    /// The same for who can't take so much at once: the JSON says how much it was, and its digest.
    #[must_use]
    pub fn cut(&self) -> Self {
        let digest = Digest::of(self.json.as_bytes());
        let json = serde_json::json!({
            "cut": true,
            "bytes": self.json.len(),
            "digest": digest.to_string(),
        });
        Self { json: json.to_string(), ..self.clone() }
    }
}

/// A record as one line of JSON in printable ASCII.
#[must_use]
pub fn json(team: &str, line: &[u8], record: &Record, form: Form) -> String {
    match form {
        Form::Ocsf => ascii(&ocsf::event(team, record).to_string()),
        Form::Record => ascii(&String::from_utf8_lossy(line)),
    }
}

/// JSON with every character that is not printable ASCII as an escape, which means the same. Turned back, these
/// give the bytes that were signed, as nothing in a record is written so.
pub(super) fn ascii(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    let mut units = [0; 2];
    for character in json.chars() {
        match character {
            ' '..='~' => text.push(character),
            // Between values; in a string it would be no JSON.
            '\0'..' ' => text.push(' '),
            _ => {
                for unit in character.encode_utf16(&mut units) {
                    // Writing to a string can't fail.
                    write!(text, "\\u{unit:04x}").ok();
                }
            }
        }
    }
    text
}

/// A name: what can't be in one is shown as a question mark.
fn plain(text: &str) -> String {
    let printable = |character: char| if matches!(character, '!'..='~') { character } else { '?' };
    text.chars().take(MAX_VALUE).map(printable).collect()
}

fn time(text: &str) -> Option<String> {
    let time = chrono::DateTime::parse_from_rfc3339(text).ok()?.to_utc();
    let text = time.to_rfc3339_opts(chrono::SecondsFormat::Micros, true);
    // A year of five digits is none of RFC 3339.
    (text.len() == "2026-01-02T03:04:05.600000Z".len()).then_some(text)
}

/// Who, what and which, on one line.
#[must_use]
pub fn for_people(record: &Record) -> String {
    let by = record.by.as_ref().map(|by| format!(" [user {}, process {}]", by.uid, by.pid));
    let mut words = record.detail.clone();
    // An agent's command is more than its first word.
    if let Some(arguments) = record.data.get("arguments").and_then(|list| list.as_array()) {
        let arguments: Vec<_> = arguments.iter().filter_map(|word| word.as_str()).collect();
        words = arguments.join(" ");
    }
    let line = format!("{} {words}{}", record.kind, by.unwrap_or_default());
    printable_line(line.trim_end())
}

fn shortened(words: String) -> String {
    match words.char_indices().nth(MAX_WORDS) {
        Some((end, _)) => format!("{} (cut)", words.get(..end).unwrap_or_default()),
        None => words,
    }
}

#[cfg(test)]
#[path = "message_test.rs"]
pub(super) mod tests;
