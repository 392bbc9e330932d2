//! Unpacked roots: held by whoever shows one to a guest, and what is known of each.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{self as sys, FlockOperation, Mode, OFlags};
use serde::{Deserialize, Serialize};

use super::{Store, StoreError};
use crate::images::archive::apply::Notes;
use crate::images::archive::finish::Extent;
use crate::images::digest::Digest;
use crate::images::files;

/// The root itself.
pub(super) const ROOT: &str = "fs";
/// Owners of symbolic links, where they are not root's; see `archive::finish`.
pub(super) const LINK_OWNERS: &str = "link-owners";
pub(super) const FACTS: &str = "facts.json";
/// More than the few numbers of the file.
const MAX_FACTS: u64 = 4096;
const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// What is known of an unpacked root.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Facts {
    /// Files, directories and links.
    pub entries: u64,
    /// Bytes on the disk.
    pub bytes: u64,
    /// Extended attributes that were left out.
    pub dropped_xattrs: u64,
    /// Files and directories that had a set-id bit.
    pub cleared_set_id: u64,
    /// Devices, FIFOs and sockets that were left out.
    pub skipped_specials: u64,
}

impl Facts {
    /// Of a root that was just unpacked.
    #[must_use]
    pub const fn new(extent: Extent, notes: Notes) -> Self {
        Self {
            entries: extent.entries,
            bytes: extent.bytes,
            dropped_xattrs: notes.dropped_xattrs,
            cleared_set_id: notes.cleared_set_id,
            skipped_specials: notes.skipped_specials,
        }
    }
}

/// A root in use: it is not removed while this lives, and the kernel lets go of it when the process
/// ends, however it ends.
#[derive(Debug)]
pub struct HeldRoot {
    /// The root, to be bound or looked into.
    pub root: OwnedFd,
    held: OwnedFd,
}

impl HeldRoot {
    /// The root, and the lock that holds it as long as some process has this descriptor or a copy of it.
    #[must_use]
    pub fn into_descriptors(self) -> (OwnedFd, OwnedFd) {
        (self.root, self.held)
    }
}

impl Store {
    /// What is known of a root; nothing if it is not there.
    ///
    /// # Errors
    /// It can't be read.
    pub fn facts(&self, chain: Digest) -> Result<Option<Facts>, StoreError> {
        let path = format!("{}/{FACTS}", chain.hex());
        match files::read_at(&self.roots, &path, MAX_FACTS) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map(Some)
                .map_err(|error| self.io("read what is known of a root", io::Error::from(error))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.io("read what is known of a root", error)),
        }
    }

    /// Holds the root of a chain of layers; to be called with the store entered.
    ///
    /// # Errors
    /// It is not there, or the file system refuses.
    pub fn hold_root(&self, chain: Digest) -> Result<HeldRoot, StoreError> {
        let held = sys::openat(&self.roots, chain.hex(), DIRECTORY, Mode::empty())
            .map_err(|error| self.io("open the root of an image", error))?;
        files::lock(&held, false).map_err(|error| self.io("lock the root of an image", error))?;
        let root = sys::openat(&held, ROOT, DIRECTORY, Mode::empty())
            .map_err(|error| self.io("open the root of an image", error))?;
        Ok(HeldRoot { root, held })
    }

    /// Whether somebody holds a root.
    pub(super) fn is_held(&self, name: &str) -> bool {
        let Ok(root) = sys::openat(&self.roots, name, DIRECTORY, Mode::empty()) else {
            return false;
        };
        sys::flock(&root, FlockOperation::NonBlockingLockExclusive).is_err()
    }
}
