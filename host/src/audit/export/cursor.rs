//! Up to where a log was handed over, in a small file, so that an exporter that was killed goes on there.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::audit::record::Place;
use crate::images::files::{put, read_bounded};

/// Raised when a key goes or changes its meaning.
const SCHEMA: u32 = 1;
/// More than a cursor ever takes.
const MAX_BYTES: u64 = 4 << 10;
/// Digits of a log's name and of a digest.
const LOG_DIGITS: usize = 32;
const DIGEST_DIGITS: usize = 64;

/// Why a cursor can't be used.
#[derive(Debug, thiserror::Error)]
pub enum CursorError {
    /// The file system refuses.
    #[error("can't {what} the cursor {}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// Where it is.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is something else.
    #[error("{} is no cursor", .0.display())]
    Form(PathBuf),
    /// It says how far another team's log has come.
    #[error("the cursor {} is of team {team:?}", path.display())]
    Team {
        /// Where it is.
        path: PathBuf,
        /// Whose it is.
        team: String,
    },
}

impl CursorError {
    /// What a person can do about it.
    #[must_use]
    pub const fn remedy(&self) -> &'static str {
        match self {
            Self::Io { .. } => "name a file in a directory that this user may write",
            Self::Form(_) => {
                "name another file, or say with --since where to go on and remove this one"
            }
            Self::Team { .. } => "keep a cursor for each team and each collector",
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    schema: u32,
    team: String,
    log: String,
    record: u64,
    digest: String,
}

/// The file that keeps a place.
#[derive(Clone, Debug)]
pub struct Cursor {
    path: PathBuf,
    team: String,
}

impl Cursor {
    /// Of a team's log, in this file.
    #[must_use]
    pub fn new(path: &Path, team: &str) -> Self {
        Self { path: path.to_owned(), team: team.to_owned() }
    }

    /// The place; `None`: there is no file yet.
    ///
    /// # Errors
    /// It can't be read, is something else, or another team's: nothing is begun anew then.
    pub fn load(&self) -> Result<Option<Place>, CursorError> {
        let file = match File::open(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file.map_err(self.failed("open"))?,
        };
        let bytes = read_bounded(file, MAX_BYTES).map_err(self.failed("read"))?;
        let form = || CursorError::Form(self.path.clone());
        let kept: Kept = serde_json::from_slice(&bytes).map_err(|_| form())?;
        let digits = |text: &str, count| {
            text.len() == count && text.bytes().all(|byte| byte.is_ascii_hexdigit())
        };
        let whole = kept.schema == SCHEMA
            && digits(&kept.log, LOG_DIGITS)
            && digits(&kept.digest, DIGEST_DIGITS);
        if !whole {
            return Err(form());
        }
        if kept.team != self.team {
            return Err(CursorError::Team { path: self.path.clone(), team: kept.team });
        }
        Ok(Some(Place { log: kept.log, seq: kept.record, digest: kept.digest }))
    }

    /// Keeps a place: after a crash the file has this one or the one before.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn save(&self, place: &Place) -> Result<(), CursorError> {
        let (team, log, digest) = (self.team.clone(), place.log.clone(), place.digest.clone());
        let kept = Kept { schema: SCHEMA, team, log, record: place.seq, digest };
        // Numbers and strings: this can't fail.
        let mut text = serde_json::to_string(&kept).unwrap_or_default();
        text.push('\n');
        let name = self.path.file_name().and_then(|name| name.to_str());
        let name = name.ok_or_else(|| CursorError::Form(self.path.clone()))?;
        let folder = match self.path.parent() {
            Some(folder) if folder.as_os_str().is_empty() => Path::new("."),
            Some(folder) => folder,
            None => Path::new("/"),
        };
        put(folder, name, text.as_bytes()).map_err(self.failed("write"))
    }

    fn failed(&self, what: &'static str) -> impl Fn(io::Error) -> CursorError + use<> {
        let path = self.path.clone();
        move |source| CursorError::Io { what, path: path.clone(), source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_kept_and_nothing_else_is_taken_for_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cursor");
        let cursor = Cursor::new(&path, "t");
        assert_eq!(cursor.load().unwrap(), None);
        let place = Place { log: "ab".repeat(16), seq: u64::MAX, digest: "cd".repeat(32) };
        cursor.save(&Place { seq: 1, ..place.clone() }).unwrap();
        cursor.save(&place).unwrap();
        assert_eq!(cursor.load().unwrap(), Some(place.clone()));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        let other = Cursor::new(&path, "u").load().unwrap_err();
        assert_eq!(other.to_string(), format!("the cursor {} is of team \"t\"", path.display()));
        let whole = std::fs::read_to_string(&path).unwrap();
        let more = " ".repeat(5000);
        for text in [
            "",
            "{}",
            "41",
            &whole.replace("\"schema\":1", "\"schema\":2"),
            &whole.replace("cdcd", "cd"),
            &whole.replace("abab", "a\\nb"),
            &whole.replace("18446744073709551615", "-1"),
            &format!("{whole}{more}"),
        ] {
            std::fs::write(&path, text).unwrap();
            assert!(cursor.load().is_err(), "{text}");
        }
        let nowhere = Cursor::new(&folder.path().join("none/cursor"), "t");
        assert!(nowhere.save(&place).unwrap_err().to_string().contains("can't write the cursor"));
    }
}
