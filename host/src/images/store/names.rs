//! The list of names: what is visible of the store.

use std::collections::BTreeMap;
use std::io;

use serde::{Deserialize, Serialize};

use super::{Store, StoreError};
use crate::images::digest::Digest;
use crate::images::files;
use crate::images::limits::{MAX_NAMES, MAX_NAMES_FILE};
use crate::images::name::Name;

const FILE: &str = "names.json";
/// The file's form.
const SCHEMA: u32 = 1;
/// Fewest digits that stand for a digest.
const MIN_DIGITS: usize = 6;

/// The names of a store, and what they stand for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Names {
    schema: u32,
    names: BTreeMap<String, Record>,
}

/// What a name stands for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// The digest of the manifest.
    pub manifest: String,
    /// When it was imported: seconds since 1970.
    pub imported: u64,
    /// From where: a kind of source, or `registry`.
    pub source: String,
    /// Whether a signature of it was verified when it came.
    pub signed: bool,
}

impl Default for Names {
    fn default() -> Self {
        Self { schema: SCHEMA, names: BTreeMap::new() }
    }
}

impl Names {
    /// Names with their digests, in order. A damaged digest is left out; nothing is found by it.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Digest, &Record)> {
        self.names.iter().filter_map(|(name, record)| {
            record.manifest.parse().ok().map(|digest| (name.as_str(), digest, record))
        })
    }

    /// The image that somebody means: a name, a name without its tag `latest`, a digest, or the
    /// first digits of one.
    ///
    /// # Errors
    /// There is none, or there are several.
    pub fn find(&self, text: &str) -> Result<(Option<&str>, Digest), StoreError> {
        let full = text.parse::<Name>().map(|name| name.key()).unwrap_or_default();
        for key in [text, full.as_str()] {
            if let Some((name, digest, _)) = self.iter().find(|(name, ..)| *name == key) {
                return Ok((Some(name), digest));
            }
        }
        let digits = text.strip_prefix("sha256:").unwrap_or(text);
        let mut found = self
            .iter()
            .map(|(_, digest, _)| digest)
            .filter(|digest| digits.len() >= MIN_DIGITS && digest.hex().starts_with(digits));
        let digest = found.next().ok_or_else(|| StoreError::NotFound(shown(text)))?;
        if found.any(|other| other != digest) {
            return Err(StoreError::Ambiguous(shown(text)));
        }
        Ok((None, digest))
    }

    /// Takes out a name, or every name of a digest; tells which.
    pub(super) fn remove(&mut self, name: Option<&str>, digest: Digest) -> Vec<String> {
        let gone: Vec<String> = self
            .iter()
            .filter(|(own, of, _)| name.map_or(*of == digest, |name| *own == name))
            .map(|(own, ..)| own.to_owned())
            .collect();
        for name in &gone {
            self.names.remove(name);
        }
        gone
    }
}

fn shown(text: &str) -> String {
    text.chars().take(300).collect()
}

impl Store {
    /// The names as they are now.
    ///
    /// # Errors
    /// The list can't be read.
    pub fn names(&self) -> Result<Names, StoreError> {
        let bytes = match files::read_at(&self.directory, FILE, MAX_NAMES_FILE) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Names::default()),
            Err(error) => return Err(self.io("read the list of names", error)),
        };
        let names: Names = serde_json::from_slice(&bytes)
            .map_err(|source| StoreError::Names { path: self.path.join(FILE), source })?;
        if names.schema == SCHEMA { Ok(names) } else { Err(StoreError::Version(self.path.clone())) }
    }

    /// Gives names to an image; other images lose them.
    pub(super) fn add_names(&self, keys: &[String], record: &Record) -> Result<(), StoreError> {
        self.change_names(|names| {
            for key in keys {
                names.names.insert(key.clone(), record.clone());
            }
            if names.names.len() > MAX_NAMES { Err(StoreError::Full) } else { Ok(()) }
        })
    }

    /// Reads, changes and replaces the list while nobody else does.
    pub(super) fn change_names<T>(
        &self,
        change: impl FnOnce(&mut Names) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let lock = self.open_lock("names.lock")?;
        files::lock(&lock, true).map_err(|error| self.io("lock", error))?;
        let mut names = self.names()?;
        let result = change(&mut names)?;
        let bytes = serde_json::to_vec_pretty(&names)
            .map_err(|source| StoreError::Names { path: self.path.join(FILE), source })?;
        files::replace_at(&self.work, &self.directory, FILE, &bytes)
            .map_err(|error| self.io("write the list of names", error))?;
        drop(lock);
        Ok(result)
    }
}
