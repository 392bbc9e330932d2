//! Applies layers to a tree, one after another: what is in a layer is made, what it whites out goes.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{self as sys, AtFlags, Mode, OFlags};
use rustix::io::Errno;

use super::attributes::{self, Owner, SET_ID};
use super::content::write_content;
use super::entry::{Entry, Kind};
use super::fault::{Fault, LayerError};
use super::path::{Meaning, Names, meaning};
use super::stream::TarStream;
use super::tree::{self, Found, HOST_DIRECTORY, Tree};
use crate::images::limits::{Limits, MAX_PATH};

/// What to do with devices, FIFOs and sockets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Specials {
    /// The layer is refused. An agent gets its own `/dev`, so no image needs them.
    #[default]
    Refuse,
    /// They are left out, and counted.
    Skip,
}

/// What was left out, or changed, of an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Notes {
    /// Extended attributes that an image may not set.
    pub dropped_xattrs: u64,
    /// Files that had a set-id bit.
    pub cleared_set_id: u64,
    /// Devices, FIFOs and sockets that were left out.
    pub skipped_specials: u64,
}

/// Where an entry is made: one name in a directory.
#[derive(Clone, Copy)]
struct Place<'a> {
    parent: BorrowedFd<'a>,
    name: &'a [u8],
}

/// A tree that layers are applied to, and what must be kept in mind until the last one.
///
/// Everything that it remembers is a few bytes an entry, so [`Limits::entries`] bounds it, whatever
/// the length of the entries' names.
#[derive(Debug)]
pub struct Applier {
    pub(super) tree: Tree,
    pub(super) limits: Limits,
    specials: Specials,
    needs_mark: bool,
    entries: u64,
    bytes: u64,
    pub(super) visits: u64,
    notes: Notes,
    /// Times of directories, by inode: set at the end, since what is made in one changes its time.
    pub(super) times: HashMap<u64, (i64, u32)>,
    /// Owners of symbolic links, by inode, unless they are root's.
    pub(super) link_owners: HashMap<u64, Owner>,
    /// What this layer made, as keyed hashes of paths: its whiteouts leave these alone.
    pub(super) made: HashSet<(u64, u64)>,
    keys: (RandomState, RandomState),
    /// The directory of the last entry; most entries are in the same as the one before.
    pub(super) last: Option<(Vec<Vec<u8>>, OwnedFd)>,
}

impl Applier {
    /// To the empty directory `root`.
    #[must_use]
    pub fn new(root: OwnedFd, limits: Limits, specials: Specials) -> Self {
        Self {
            tree: Tree::new(root),
            limits,
            specials,
            needs_mark: false,
            entries: 0,
            bytes: 0,
            visits: 0,
            notes: Notes::default(),
            times: HashMap::new(),
            link_owners: HashMap::new(),
            made: HashSet::new(),
            keys: (RandomState::new(), RandomState::new()),
            last: None,
        }
    }

    /// Refuses archives whose end is not marked: for those that no digest shows to be whole.
    pub const fn require_mark(&mut self) {
        self.needs_mark = true;
    }

    /// What was left out so far.
    #[must_use]
    pub const fn notes(&self) -> Notes {
        self.notes
    }

    /// Applies one layer, an unpacked tar archive, and gives back its stream, read to the end.
    ///
    /// # Errors
    /// The layer is wrong, too large, or the file system refuses. The tree is then of no use.
    pub fn apply<R: Read>(&mut self, layer: R) -> Result<R, LayerError> {
        self.made.clear();
        let mut stream = TarStream::new(layer);
        let mut number = 0;
        loop {
            number += 1;
            match stream.next_entry() {
                Ok(Some(entry)) => self
                    .entry(&mut stream, &entry)
                    .map_err(|fault| LayerError::new(number, &entry.path, fault))?,
                Ok(None) => break,
                Err((path, fault)) => return Err(LayerError::new(number, &path, fault)),
            }
        }
        if self.needs_mark && !stream.is_marked() {
            return Err(LayerError::new(number, b"", Fault::Truncated));
        }
        stream.drain().map_err(|fault| LayerError::new(number, b"", fault))
    }

    fn entry<R: Read>(&mut self, stream: &mut TarStream<R>, entry: &Entry) -> Result<(), Fault> {
        let names = Names::parse(&entry.path)?;
        let owner = Owner::of(entry)?;
        self.count()?;
        let Some((parents, name)) = names.split() else {
            // Of the root itself only the owner and the mode count.
            let Kind::Directory = entry.kind else { return Err(Fault::Root) };
            let root = self.tree.root().try_clone_to_owned().map_err(Fault::store("open it"))?;
            return self.directory_facts(root.as_fd(), entry, owner);
        };
        match meaning(name)? {
            Meaning::Plain => {}
            Meaning::Ignored => return Ok(()),
            Meaning::Remove(removed) => return self.white_out(parents, removed),
            Meaning::Opaque => return self.clear_directory(parents),
        }
        if let Kind::Special(what) = entry.kind {
            if self.specials == Specials::Refuse {
                return Err(Fault::Special(what));
            }
            self.notes.skipped_specials += 1;
            return Ok(());
        }
        // Found before the parent is made: a link's target must not appear by looking for it.
        let target = match entry.kind {
            Kind::HardLink => Some(self.link_target(entry, &names)?),
            _ => None,
        };
        let parent = self.parent(parents)?;
        let place = Place { parent: parent.as_fd(), name };
        let made = self.make(stream, entry, owner, place, target.as_ref());
        self.last = Some((parents.to_vec(), parent));
        made?;
        self.mark(names.all());
        Ok(())
    }

    fn make<R: Read>(
        &mut self,
        stream: &mut TarStream<R>,
        entry: &Entry,
        owner: Owner,
        place: Place<'_>,
        target: Option<&(OwnedFd, Vec<u8>)>,
    ) -> Result<(), Fault> {
        let Place { parent, name } = place;
        let before = tree::look(parent, name)?;
        let merges =
            entry.kind == Kind::Directory && tree::found(before.as_ref()) == Found::Directory;
        if before.is_some() && !merges {
            self.remove(parent, name)?;
        }
        match (entry.kind, target) {
            (Kind::Directory, _) => {
                if !merges {
                    sys::mkdirat(parent, name, HOST_DIRECTORY)
                        .map_err(Fault::store("make a directory"))?;
                }
                let directory = tree::enter(parent, name)?;
                self.directory_facts(directory.as_fd(), entry, owner)
            }
            (Kind::Symlink, _) => self.symlink(entry, owner, place),
            (Kind::HardLink, Some((folder, old))) => {
                sys::linkat(folder, old.as_slice(), parent, name, AtFlags::empty()).map_err(
                    |error| {
                        match error {
                            // It was in what this very entry replaces.
                            Errno::NOENT => {
                                Fault::HardLink(LayerError::new(0, old, Fault::Empty).shown)
                            }
                            error => Fault::store("make a hard link")(error),
                        }
                    },
                )
            }
            _ => self.file(stream, entry, owner, place),
        }
    }

    fn file<R: Read>(
        &mut self,
        stream: &mut TarStream<R>,
        entry: &Entry,
        owner: Owner,
        Place { parent, name }: Place<'_>,
    ) -> Result<(), Fault> {
        self.bytes = self.bytes.saturating_add(entry.size);
        if self.bytes > self.limits.bytes {
            return Err(Fault::Bytes(self.limits.bytes));
        }
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = sys::openat(parent, name, flags, Mode::from_raw_mode(0o600))
            .map_err(Fault::store("make a file"))?;
        let mut file = std::fs::File::from(file);
        write_content(&mut file, stream, entry)?;
        let mode = self.without_set_id(entry.mode);
        attributes::record(file.as_fd(), owner, mode)?;
        self.notes.dropped_xattrs += attributes::set_xattrs(file.as_fd(), &entry.xattrs)?;
        sys::fchmod(&file, attributes::host_file(mode)).map_err(Fault::store("set a mode"))?;
        sys::futimens(&file, &attributes::times(entry.mtime)).map_err(Fault::store("set a time"))
    }

    fn symlink(
        &mut self,
        entry: &Entry,
        owner: Owner,
        Place { parent, name }: Place<'_>,
    ) -> Result<(), Fault> {
        // What it says is the guest's business: nothing on the host ever follows it.
        if entry.link.is_empty() {
            return Err(Fault::Empty);
        }
        if entry.link.len() > MAX_PATH {
            return Err(Fault::Length);
        }
        if entry.link.contains(&0) {
            return Err(Fault::Nul);
        }
        sys::symlinkat(entry.link.as_slice(), parent, name)
            .map_err(Fault::store("make a symbolic link"))?;
        let times = attributes::times(entry.mtime);
        sys::utimensat(parent, name, &times, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(Fault::store("set a time"))?;
        self.notes.dropped_xattrs += entry.xattrs.len() as u64;
        if owner != (Owner { uid: 0, gid: 0 })
            && let Some(stat) = tree::look(parent, name)?
        {
            self.link_owners.insert(stat.st_ino, owner);
        }
        Ok(())
    }

    fn directory_facts(
        &mut self,
        directory: BorrowedFd<'_>,
        entry: &Entry,
        owner: Owner,
    ) -> Result<(), Fault> {
        let mode = self.without_set_id(entry.mode);
        attributes::record(directory, owner, mode)?;
        self.notes.dropped_xattrs += attributes::set_xattrs(directory, &entry.xattrs)?;
        let stat = sys::fstat(directory).map_err(Fault::store("look at a directory"))?;
        self.times.insert(stat.st_ino, entry.mtime);
        Ok(())
    }

    /// The directory and the name of what a hard link names.
    fn link_target(&self, entry: &Entry, own: &Names) -> Result<(OwnedFd, Vec<u8>), Fault> {
        let shown = || {
            let error = LayerError::new(0, &entry.link, Fault::Empty);
            Fault::HardLink(error.shown)
        };
        let names = Names::parse(&entry.link)?;
        let (parents, name) = names.split().ok_or_else(shown)?;
        let folder = self.tree.open(parents)?.ok_or_else(shown)?;
        let stat = tree::look(folder.as_fd(), name)?;
        if names == *own || matches!(tree::found(stat.as_ref()), Found::Nothing | Found::Directory)
        {
            return Err(shown());
        }
        Ok((folder, name.to_vec()))
    }

    /// Opens a directory, making what is missing on the way as root's and without a time.
    fn parent(&mut self, names: &[Vec<u8>]) -> Result<OwnedFd, Fault> {
        if let Some((last, directory)) = self.last.take()
            && last == names
        {
            return Ok(directory);
        }
        if let Some(directory) = self.tree.open(names)? {
            return Ok(directory);
        }
        let mut directory =
            self.tree.root().try_clone_to_owned().map_err(Fault::store("open the root"))?;
        for name in names {
            let before = tree::look(directory.as_fd(), name)?;
            match tree::found(before.as_ref()) {
                Found::Directory => {}
                Found::Other => return Err(Fault::Through),
                Found::Nothing => {
                    self.count()?;
                    sys::mkdirat(&directory, name.as_slice(), HOST_DIRECTORY)
                        .map_err(Fault::store("make a directory"))?;
                    let made = tree::enter(directory.as_fd(), name)?;
                    attributes::record(made.as_fd(), Owner { uid: 0, gid: 0 }, 0o755)?;
                    let stat = sys::fstat(&made).map_err(Fault::store("look at a directory"))?;
                    self.times.insert(stat.st_ino, (0, 0));
                }
            }
            directory = tree::enter(directory.as_fd(), name)?;
        }
        Ok(directory)
    }

    /// Remembers that this layer made a path, and so everything on the way to it.
    fn mark(&mut self, names: &[Vec<u8>]) {
        for end in (1..=names.len()).rev() {
            let hash = self.hash(names.get(..end).unwrap_or_default());
            if !self.made.insert(hash) {
                // Then the way to it is marked as well.
                return;
            }
        }
    }

    pub(super) fn hash(&self, names: &[Vec<u8>]) -> (u64, u64) {
        (self.keys.0.hash_one(names), self.keys.1.hash_one(names))
    }

    fn count(&mut self) -> Result<(), Fault> {
        self.entries += 1;
        if self.entries > self.limits.entries {
            return Err(Fault::Entries(self.limits.entries));
        }
        Ok(())
    }

    /// The set-id bits go: an agent runs with `no_new_privs`, where they have no effect.
    fn without_set_id(&mut self, mode: u32) -> u32 {
        self.notes.cleared_set_id += u64::from(mode & SET_ID != 0);
        mode & !SET_ID
    }
}

#[cfg(test)]
#[path = "apply_test.rs"]
mod tests;
