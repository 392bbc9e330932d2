//! Blobs of the store: found by digest, read whole and checked, or as a stream.

use std::fs::File;
use std::io;

use super::{Store, StoreError};
use crate::images::digest::Digest;
use crate::images::files;
use crate::images::limits::MAX_JSON;

impl Store {
    /// Whether a blob is there.
    #[must_use]
    pub fn has_blob(&self, digest: Digest) -> bool {
        files::open_below(&self.blobs, &digest.hex()).is_ok()
    }

    /// Opens a blob. Its content was checked when it came.
    ///
    /// # Errors
    /// It is not there.
    pub fn open_blob(&self, digest: Digest) -> Result<File, StoreError> {
        files::open_below(&self.blobs, &digest.hex()).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => StoreError::Lost(digest),
            _ => self.io("read a blob", error),
        })
    }

    /// Reads a manifest or a configuration, and checks that it is what its digest says.
    ///
    /// # Errors
    /// It is not there, too large, or damaged.
    pub fn read_blob(&self, digest: Digest) -> Result<Vec<u8>, StoreError> {
        let file = self.open_blob(digest)?;
        let bytes =
            files::read_bounded(file, MAX_JSON).map_err(|error| self.io("read a blob", error))?;
        if Digest::of(&bytes) == digest { Ok(bytes) } else { Err(StoreError::Damaged(digest)) }
    }
}
