//! Listings: the shares by their names, and the entries of a share's directory.

use std::ffi::CStr;
use std::io;
use std::sync::Arc;

use virtiofsd::filesystem::{DirEntry, DirectoryIterator};

use super::Place;
use crate::share::Share;
use crate::spec::Kind;

/// What a directory may hold that is not shown.
const HIDDEN: [u8; 4] = [libc::DT_FIFO, libc::DT_CHR, libc::DT_BLK, libc::DT_SOCK];

/// An entry, and where its name lies.
#[derive(Debug)]
struct Listed {
    ino: u64,
    offset: u64,
    kind: u32,
    name: std::ops::Range<usize>,
}

/// Entries of a directory, their names in one piece of memory.
#[derive(Debug, Default)]
pub struct Listing {
    names: Vec<u8>,
    entries: Vec<Listed>,
    next: usize,
}

impl Listing {
    /// The shares after the first `offset`.
    pub(super) fn of_shares(shares: &[Arc<Share>], offset: u64) -> Self {
        let mut listing = Self::default();
        let skipped = usize::try_from(offset).unwrap_or(usize::MAX);
        for (number, share) in (1..).zip(shares).skip(skipped) {
            let kind = if share.spec.kind == Kind::File { libc::DT_REG } else { libc::DT_DIR };
            listing.add(number, number, kind.into(), share.spec.name.as_bytes());
        }
        listing
    }

    /// The entries of a share's directory from `offset` on, as many as `read` gives at once, without
    /// what is not shown.
    ///
    /// # Errors
    /// `read`'s.
    pub(super) fn of_directory<Entries: DirectoryIterator>(
        place: &Place,
        mut offset: u64,
        read: impl Fn(u64) -> io::Result<Entries>,
    ) -> io::Result<Self> {
        let mut listing = Self::default();
        // Nothing at all would mean the end, so a piece in which nothing is shown is followed by the next.
        loop {
            let mut entries = read(offset)?;
            let mut end = true;
            while let Some(DirEntry { ino, offset: after, type_, name }) = entries.next() {
                (end, offset) = (false, after);
                if !HIDDEN.into_iter().any(|hidden| u32::from(hidden) == type_) {
                    listing.add(place.ino(ino), after, type_, name.to_bytes());
                }
            }
            if end || !listing.entries.is_empty() {
                return Ok(listing);
            }
        }
    }

    fn add(&mut self, ino: u64, offset: u64, kind: u32, name: &[u8]) {
        let start = self.names.len();
        self.names.extend(name);
        self.names.push(0);
        self.entries.push(Listed { ino, offset, kind, name: start..self.names.len() });
    }
}

impl DirectoryIterator for Listing {
    fn next(&mut self) -> Option<DirEntry<'_>> {
        let Listed { ino, offset, kind, name } = self.entries.get(self.next)?;
        self.next += 1;
        let name = CStr::from_bytes_with_nul(self.names.get(name.clone())?).ok()?;
        Some(DirEntry { ino: *ino, offset: *offset, type_: *kind, name })
    }
}
