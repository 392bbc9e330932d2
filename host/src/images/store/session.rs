//! One import at work: what it makes is in `work/` until it is published as a whole.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};

use rustix::fs::{self as sys, Mode, OFlags, RenameFlags, XattrFlags};
use rustix::io::Errno;

use super::names::Record;
use super::roots::{FACTS, Facts, LINK_OWNERS, ROOT};
use super::{Guard, Store, StoreError};
use crate::images::archive::attributes::OVERRIDE;
use crate::images::archive::tree::remove_all;
use crate::images::digest::{Digest, Digesting};
use crate::images::files;

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// The directory of the root that is being unpacked.
const NEW_ROOT: &str = "root";

/// An import at work. Dropping it removes what was not published; so does the next command if this
/// one is killed.
#[derive(Debug)]
pub struct Session<'a> {
    store: &'a Store,
    /// Declared before the lock: what is in `work/` goes before somebody may think it forgotten.
    scratch: Scratch<'a>,
    blobs: BTreeMap<Digest, u64>,
    scratch_files: u64,
    _guard: Guard,
}

#[derive(Debug)]
struct Scratch<'a> {
    store: &'a Store,
    name: String,
    directory: OwnedFd,
}

impl Drop for Scratch<'_> {
    fn drop(&mut self) {
        // What can't be removed now, the next command removes.
        remove_all(self.store.work.as_fd(), OsStr::new(&self.name)).ok();
    }
}

impl<'a> Session<'a> {
    /// Begins; the guard is from [`Store::enter`].
    ///
    /// # Errors
    /// The file system refuses, or has no attributes for users.
    pub fn begin(store: &'a Store, guard: Guard) -> Result<Self, StoreError> {
        let mut number = u64::from(std::process::id());
        let name = loop {
            let name = format!("import-{number}");
            match sys::mkdirat(&store.work, name.as_str(), Mode::from_raw_mode(0o700)) {
                Ok(()) => break name,
                // Another import of this process, or of one with its number in a container.
                Err(Errno::EXIST) => number = number.wrapping_add(1 << 32),
                Err(error) => return Err(store.io("begin an import", error)),
            }
        };
        let directory = sys::openat(&store.work, name.as_str(), DIRECTORY, Mode::empty())
            .map_err(|error| store.io("begin an import", error))?;
        let scratch = Scratch { store, name, directory };
        // Told before anything is fetched, not by the first entry of the first layer.
        sys::fsetxattr(&scratch.directory, OVERRIDE, b"0:0:755", XattrFlags::empty()).map_err(
            |error| {
                store.io("set a user attribute, which the store's file system must have", error)
            },
        )?;
        Ok(Self { store, scratch, blobs: BTreeMap::new(), scratch_files: 0, _guard: guard })
    }

    /// The store.
    #[must_use]
    pub const fn store(&self) -> &'a Store {
        self.store
    }

    /// A file without a meaning yet: a blob that is being written, or a copy to work on.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn scratch_file(&mut self) -> Result<(String, File), StoreError> {
        self.scratch_files += 1;
        let name = format!("scratch-{}", self.scratch_files);
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file =
            sys::openat(&self.scratch.directory, name.as_str(), flags, Mode::from_raw_mode(0o600))
                .map_err(|error| self.store.io("make a file", error))?;
        Ok((name, File::from(file)))
    }

    /// Makes a blob of a scratch file that was written completely.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn adopt(
        &mut self,
        name: &str,
        file: &File,
        digest: Digest,
        size: u64,
    ) -> Result<(), StoreError> {
        file.sync_all().map_err(|error| self.store.io("write a blob", error))?;
        let directory = &self.scratch.directory;
        sys::renameat(directory, name, directory, blob_name(digest))
            .map_err(|error| self.store.io("keep a blob", error))?;
        self.blobs.insert(digest, size);
        Ok(())
    }

    /// Copies a stream of at most `most` bytes into a blob; tells its digest and size. One more byte
    /// than `most` is read, so a size of more tells that there was more.
    ///
    /// # Errors
    /// Outer: the store's file system refuses. Inner: the stream can't be read.
    pub fn put_blob(
        &mut self,
        input: impl Read,
        most: u64,
    ) -> Result<io::Result<(Digest, u64)>, StoreError> {
        let (name, mut file) = self.scratch_file()?;
        let mut input = Digesting::new(input.take(most.saturating_add(1)));
        let mut buffer = vec![0; 128 << 10];
        loop {
            let count = match input.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Ok(Err(error)),
            };
            file.write_all(buffer.get(..count).unwrap_or_default())
                .map_err(|error| self.store.io("write a blob", error))?;
        }
        let (_, digest, size) = input.finish();
        self.adopt(&name, &file, digest, size)?;
        Ok(Ok((digest, size)))
    }

    /// Whether a blob is in the store or was put by this import.
    #[must_use]
    pub fn has_blob(&self, digest: Digest) -> bool {
        self.blobs.contains_key(&digest) || self.store.has_blob(digest)
    }

    /// Opens a blob of the store or of this import.
    ///
    /// # Errors
    /// It is in neither.
    pub fn open_blob(&self, digest: Digest) -> Result<File, StoreError> {
        if self.blobs.contains_key(&digest) {
            return files::open_below(&self.scratch.directory, &blob_name(digest))
                .map_err(|error| self.store.io("read a blob", error));
        }
        self.store.open_blob(digest)
    }

    /// An empty directory for a root; one an import.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn new_root(&self) -> Result<OwnedFd, StoreError> {
        let io = |error: Errno| self.store.io("make a root", error);
        let scratch = &self.scratch.directory;
        remove_all(scratch.as_fd(), OsStr::new(NEW_ROOT))
            .map_err(|error| self.store.io("make a root", error))?;
        sys::mkdirat(scratch, NEW_ROOT, Mode::from_raw_mode(0o700)).map_err(io)?;
        let folder = sys::openat(scratch, NEW_ROOT, DIRECTORY, Mode::empty()).map_err(io)?;
        sys::mkdirat(&folder, ROOT, Mode::from_raw_mode(0o755)).map_err(io)?;
        sys::openat(&folder, ROOT, DIRECTORY, Mode::empty()).map_err(io)
    }

    /// Publishes a root that was unpacked into [`Self::new_root`], unless it is there already.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn publish_root(
        &self,
        chain: Digest,
        facts: &Facts,
        link_owners: &[u8],
    ) -> Result<(), StoreError> {
        let io = |error: io::Error| self.store.io("publish a root", error);
        let scratch = &self.scratch.directory;
        let folder = sys::openat(scratch, NEW_ROOT, DIRECTORY, Mode::empty())
            .map_err(|error| io(error.into()))?;
        files::replace_at(&folder, &folder, LINK_OWNERS, link_owners).map_err(io)?;
        let text = serde_json::to_vec(facts).map_err(|error| io(error.into()))?;
        files::replace_at(&folder, &folder, FACTS, &text).map_err(io)?;
        // A million small files: one call for all of them.
        sys::syncfs(&folder).map_err(|error| io(error.into()))?;
        let rename = sys::renameat_with(
            scratch,
            NEW_ROOT,
            &self.store.roots,
            chain.hex(),
            RenameFlags::NOREPLACE,
        );
        match rename {
            // Another import was first; its root has the same content.
            Ok(()) | Err(Errno::EXIST) => self.store.sync_directory(&self.store.roots),
            Err(error) => Err(io(error.into())),
        }
    }

    /// Publishes the blobs, then the names, which makes the image visible.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn publish(self, keys: &[String], record: &Record) -> Result<(), StoreError> {
        for digest in self.blobs.keys() {
            let done = sys::renameat_with(
                &self.scratch.directory,
                blob_name(*digest),
                &self.store.blobs,
                digest.hex(),
                RenameFlags::NOREPLACE,
            );
            match done {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(self.store.io("publish a blob", error)),
            }
        }
        self.store.sync_directory(&self.store.blobs)?;
        self.store.add_names(keys, record)
    }
}

fn blob_name(digest: Digest) -> String {
    format!("blob-{}", digest.hex())
}
