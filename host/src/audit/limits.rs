//! How much of an audit log is kept, and what happens when that is full: the operator's file.

use std::path::Path;

use serde::Deserialize;

use super::AuditError;
use crate::operator;

/// The operator's file. No variable names another: a user could name one that records less.
pub const OPERATORS_FILE: &str = "/etc/cloister/audit.toml";
/// Without the file: months of a busy team.
const USUAL_MIB: u64 = 256;
/// Fewer would be full after an hour of one, and leave no room for a second segment.
const LEAST_MIB: u64 = 2;
/// More is not an audit log of one team.
const MOST_MIB: u64 = 1 << 20;

/// What happens when a log is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WhenFull {
    /// The team is stopped, and none of its name starts.
    #[default]
    Stop,
    /// Its oldest segment is removed, which is recorded.
    DropOldest,
}

/// Bounds of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most bytes of all segments.
    pub most: u64,
    /// What happens then.
    pub when_full: WhenFull,
}

impl Default for Limits {
    fn default() -> Self {
        Self { most: USUAL_MIB << 20, when_full: WhenFull::Stop }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct LimitsFile {
    max_mib: Option<u64>,
    #[serde(default)]
    when_full: WhenFull,
}

impl Limits {
    /// Reads the operator's file; without one the usual limits hold.
    ///
    /// # Errors
    /// It can't be read, has a mistake, or others than root can write it: then nothing starts.
    pub fn load(path: &Path) -> Result<Self, AuditError> {
        match operator::load::<LimitsFile>(path)? {
            None => Ok(Self::default()),
            Some(file) => {
                file.limits().map_err(|why| AuditError::Settings { path: path.to_owned(), why })
            }
        }
    }
}

impl LimitsFile {
    fn limits(self) -> Result<Limits, String> {
        let mib = self.max_mib.unwrap_or(USUAL_MIB);
        if !(LEAST_MIB..=MOST_MIB).contains(&mib) {
            return Err(format!("max-mib = {mib}: it can be {LEAST_MIB} to {MOST_MIB}"));
        }
        Ok(Limits { most: mib << 20, when_full: self.when_full })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_and_mistakes_told() {
        let parse = |text: &str| {
            let parsed = toml::from_slice::<LimitsFile>(text.as_bytes());
            parsed.map_err(|error| error.to_string()).and_then(LimitsFile::limits)
        };
        let limits = parse("max-mib = 2\nwhen-full = \"drop-oldest\"").unwrap();
        assert_eq!(limits, Limits { most: 2 << 20, when_full: WhenFull::DropOldest });
        assert_eq!(parse("").unwrap(), Limits::default());
        for (text, words) in [
            ("max-mib = 1", "2 to 1048576"),
            ("max-mib = 99999999", "2 to 1048576"),
            ("max-mib = -1", "line 1, column 11"),
            ("maxmib = 3", "unknown field `maxmib`"),
            ("when-full = \"drop\"", "expected `stop` or `drop-oldest`"),
            ("\u{0}", "line 1"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(words), "{text}: {error}");
        }
    }
}
