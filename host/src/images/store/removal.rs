//! Removing: images by name, what no name needs any more, and what a killed command left.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;

use rustix::fs::{self as sys, AtFlags};

use super::{Guard, Store, StoreError};
use crate::images::archive::tree::{list, remove_all};
use crate::images::digest::Digest;
use crate::images::manifest;

/// Names of blobs and of roots.
type Needed = (HashSet<Vec<u8>>, HashSet<Vec<u8>>);
/// Is in `work/` while something is removed.
const REMOVAL: &str = "removal";

/// What was removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Unfinished imports.
    pub unfinished: u64,
    /// Blobs.
    pub blobs: u64,
    /// Bytes of these blobs.
    pub blob_bytes: u64,
    /// Unpacked roots.
    pub roots: u64,
    /// Roots that stay, since a team uses them.
    pub held: u64,
}

impl Store {
    /// Takes a name, or a digest with all its names, out of the store, and removes what nothing
    /// else needs. Tells the names.
    ///
    /// # Errors
    /// There is no such image, or the file system refuses.
    pub fn remove(&self, text: &str, alone: &Guard) -> Result<(Vec<String>, Removed), StoreError> {
        // So that the next command knows of it if this one is killed in between.
        sys::mkdirat(&self.work, REMOVAL, sys::Mode::from_raw_mode(0o700))
            .map_err(|error| self.io("begin a removal", error))?;
        let done = self.remove_names(text).and_then(|gone| Ok((gone, self.collect(alone)?)));
        remove_all(self.work.as_fd(), OsStr::new(REMOVAL))
            .map_err(|error| self.io("end a removal", error))?;
        done
    }

    fn remove_names(&self, text: &str) -> Result<Vec<String>, StoreError> {
        self.change_names(|names| {
            let (name, digest) = names.find(text)?;
            let name = name.map(str::to_owned);
            Ok(names.remove(name.as_deref(), digest))
        })
    }

    /// Removes every blob and root that no name needs. The guard says that nobody else is at work.
    ///
    /// # Errors
    /// The file system refuses, or a manifest that is needed can't be read: then nothing is removed.
    pub fn collect(&self, _alone: &Guard) -> Result<Removed, StoreError> {
        self.collect_unneeded()
    }

    /// Removes what commands left that were killed; to be called with the store locked exclusively.
    pub(super) fn remove_leftovers(&self) -> Result<Option<Removed>, StoreError> {
        let unfinished = self.list(&self.work)?;
        if unfinished.is_empty() {
            return Ok(None);
        }
        // First what was published without a name: work/ tells of it until it is gone.
        let mut removed = self.collect_unneeded()?;
        for name in &unfinished {
            remove_all(self.work.as_fd(), OsStr::from_bytes(name))
                .map_err(|error| self.io("remove what a killed command left", error))?;
            removed.unfinished += 1;
        }
        Ok(Some(removed))
    }

    fn collect_unneeded(&self) -> Result<Removed, StoreError> {
        let (blobs, roots) = self.needed()?;
        let mut removed = Removed::default();
        for name in self.list(&self.roots)? {
            if roots.contains(&name) {
                continue;
            }
            let text = String::from_utf8_lossy(&name);
            if self.is_held(&text) {
                removed.held += 1;
                continue;
            }
            self.discard_root(&text)?;
            removed.roots += 1;
        }
        for name in self.list(&self.blobs)? {
            if blobs.contains(&name) {
                continue;
            }
            let stat = sys::statat(&self.blobs, name.as_slice(), AtFlags::SYMLINK_NOFOLLOW)
                .map_err(|error| self.io("look at a blob", error))?;
            remove_all(self.blobs.as_fd(), OsStr::from_bytes(&name))
                .map_err(|error| self.io("remove a blob", error))?;
            removed.blobs += 1;
            removed.blob_bytes += u64::try_from(stat.st_size).unwrap_or(0);
        }
        Ok(removed)
    }

    /// Moves a root out of sight at once, then removes it: a kill in between leaves no half of it
    /// where it could be used.
    fn discard_root(&self, name: &str) -> Result<(), StoreError> {
        let scratch = format!("removed-{name}");
        sys::renameat(&self.roots, name, &self.work, scratch.as_str())
            .map_err(|error| self.io("remove a root", error))?;
        remove_all(self.work.as_fd(), OsStr::new(&scratch))
            .map_err(|error| self.io("remove a root", error))
    }

    /// The names of blobs and roots that some name of the store needs.
    fn needed(&self) -> Result<Needed, StoreError> {
        let mut blobs = HashSet::new();
        let mut roots = HashSet::new();
        let mut seen: HashSet<Digest> = HashSet::new();
        for (_, digest, _) in self.names()?.iter() {
            if !seen.insert(digest) {
                continue;
            }
            let image = match self.image(digest) {
                Ok(image) => image,
                // Such an image can only be removed; what it had is not known.
                Err(StoreError::Lost(_) | StoreError::Damaged(_)) => continue,
                Err(error) => return Err(error),
            };
            let layers = image.layers.iter().map(|layer| layer.digest);
            for digest in [digest, image.config_digest].into_iter().chain(layers) {
                blobs.insert(digest.hex().into_bytes());
            }
            let chain = manifest::chain(image.layers.iter().map(|layer| layer.diff));
            roots.insert(chain.hex().into_bytes());
        }
        Ok((blobs, roots))
    }

    fn list(&self, directory: &OwnedFd) -> Result<Vec<Vec<u8>>, StoreError> {
        // Reading moves a descriptor's own position: each time from a new one.
        sys::openat(directory, ".", sys::OFlags::RDONLY | sys::OFlags::CLOEXEC, sys::Mode::empty())
            .map_err(std::io::Error::from)
            .and_then(|directory| list(directory.as_fd()))
            .map_err(|error| self.io("read a directory of the image store", error))
    }
}
