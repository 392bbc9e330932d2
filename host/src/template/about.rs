//! What is kept of a template beside its memory and state: what it was made of, digests, and the list of pages that its
//! users write at once. Read as anybody's bytes.

use std::fs::File;
use std::path::PathBuf;

use cloister_vmm::spec::WorkingSet;
use serde::{Deserialize, Serialize};

use super::TemplateError;
use super::key::Key;
use crate::images::digest::Digest;
use crate::images::files::read_bounded;
use crate::launch::files::Files;

/// Longest `about.json`.
const MAX_ABOUT: u64 = 64 << 10;

/// Longest list of pages: twice what the longest has that there can be.
const MAX_WRITTEN: u64 = 8 << 10;

/// What is told of a template.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// What it was made of.
    pub key: Key,
    /// When, in seconds since 1970.
    pub made: u64,
    /// Bytes of memory that are stored.
    pub stored_bytes: u64,
    /// Digest of the memory.
    pub memory: String,
    /// Digest of the state.
    pub state: String,
    /// Digest of the list of pages that its users write at once.
    pub written: String,
    /// Where the programs and images were that it was made of.
    pub places: Places,
}

/// Where programs and images are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Places {
    /// The vmm.
    pub vmm: PathBuf,
    /// The guest's kernel.
    pub kernel: PathBuf,
    /// The guest's root.
    pub root: PathBuf,
}

impl Places {
    /// Of a machine's files.
    #[must_use]
    pub fn of(files: &Files) -> Self {
        let Files { vmm, kernel, root, .. } = files.clone();
        Self { vmm, kernel, root }
    }
}

/// Reads it.
///
/// # Errors
/// It is none.
pub(super) fn read_about(file: File) -> Result<About, TemplateError> {
    let bytes = read_bounded(file, MAX_ABOUT)
        .map_err(|_| TemplateError::Damaged("its description can't be read"))?;
    serde_json::from_slice(&bytes).map_err(|_| TemplateError::Damaged("its description is none"))
}

/// Reads the list of pages, of a memory as large as the template's.
///
/// # Errors
/// It is not the one that the template was made with, or none that there can be.
pub(super) fn read_written(file: File, about: &About) -> Result<WorkingSet, TemplateError> {
    let damaged = TemplateError::Damaged("its list of pages has changed");
    let Ok(bytes) = read_bounded(file, MAX_WRITTEN) else { return Err(damaged) };
    if Digest::of(&bytes).hex() != about.written {
        return Err(damaged);
    }
    match postcard::take_from_bytes::<WorkingSet>(&bytes) {
        Ok((written, [])) if written.validate(about.key.memory_bytes()).is_ok() => Ok(written),
        _ => Err(damaged),
    }
}
