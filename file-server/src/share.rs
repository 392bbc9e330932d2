//! One share: the library's file system on its mount, what of it the guest knows, and how it is shown.

use std::collections::HashMap;
use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::fs::{CWD, Mode, OFlags, openat};
use virtiofsd::filesystem::{
    Context, Entry, FileSystem as _, FsOptions, GetxattrReply, ROOT_ID, SerializableFileSystem as _,
};
use virtiofsd::fuse::{Attr, SetattrIn, SetattrValid};
use virtiofsd::passthrough::{Config, MigrationOnError, PassthroughFs};

use crate::budget::Budget;
use crate::keep;
use crate::locks::{Locks, nobody};
use crate::owner::{MAX_RECORD, RECORD, SET_ID, Shown};
use crate::router::error;
use crate::spec::{FILE_NAME, Kind, Owner, ShareSpec};

/// A file that the guest knows.
#[derive(Clone, Copy, Debug)]
struct Node {
    /// How often it was told of it; the library counts the same.
    lookups: u64,
    shown: Shown,
}

/// A share.
pub struct Share {
    /// What it is.
    pub spec: ShareSpec,
    /// The library's part.
    pub files: PassthroughFs,
    /// Record locks.
    pub locks: Locks,
    mount: OwnedFd,
    nodes: Mutex<HashMap<u64, Node>>,
    handles: AtomicU64,
    budget: Arc<Budget>,
}

impl std::fmt::Debug for Share {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Share").field("spec", &self.spec).finish_non_exhaustive()
    }
}

impl Share {
    /// Opens the share. Changes the calling thread's working directory for a moment.
    ///
    /// # Errors
    /// It can't be opened.
    pub fn new(
        spec: ShareSpec,
        mount: OwnedFd,
        processes: File,
        budget: Arc<Budget>,
    ) -> io::Result<Self> {
        let files = PassthroughFs::new(Config {
            entry_timeout: keep::names(spec.owner),
            // See `adopt`.
            attr_timeout: Duration::ZERO,
            cache_policy: keep::content(&spec),
            root_dir: ".".to_owned(),
            xattr: true,
            proc_sfd_rawfd: Some(processes),
            // A file that is gone is no reason to end: see `carried::restore`.
            migration_on_error: MigrationOnError::GuestError,
            ..Config::default()
        })?;
        let share = Self {
            spec,
            files,
            locks: Locks::default(),
            mount,
            nodes: Mutex::default(),
            handles: AtomicU64::new(0),
            budget,
        };
        share.reset()?;
        Ok(share)
    }

    /// Forgets everything that the guest knew and had open. Changes the calling thread's working
    /// directory for a moment.
    ///
    /// # Errors
    /// The share can't be opened.
    pub fn reset(&self) -> io::Result<()> {
        let mut nodes = self.nodes();
        self.budget.give_nodes(count(nodes.len()));
        nodes.clear();
        self.budget.give_handles(self.handles.swap(0, Ordering::Relaxed) + self.locks.count());
        self.locks.clear();
        self.at_mount(|files| files.init(FsOptions::empty())).map(drop)
    }

    /// Lets the library open the share's root: it does so by the working directory.
    fn at_mount<T>(&self, act: impl FnOnce(&PassthroughFs) -> io::Result<T>) -> io::Result<T> {
        let before = openat(CWD, c".", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        rustix::process::fchdir(&self.mount)?;
        let done = act(&self.files);
        rustix::process::fchdir(before)?;
        done
    }

    /// Takes up what another server's library left in this file: known and open files, without any book of ours.
    ///
    /// # Errors
    /// The share can't be opened, or what is left does not fit together.
    pub fn take_up(&self, left: File) -> io::Result<()> {
        self.at_mount(|files| files.deserialize_and_apply(left))
    }

    /// Books a file that the guest was told of by another server.
    ///
    /// # Errors
    /// There is no room, or the system's.
    pub fn take_up_node(&self, inode: u64, lookups: u64, mode: u32) -> io::Result<()> {
        let shown = self.shown(inode, mode & libc::S_IFMT)?;
        self.budget.take_node()?;
        self.nodes().insert(inode, Node { lookups, shown });
        Ok(())
    }

    /// Books a file that the guest has open.
    ///
    /// # Errors
    /// There is no room.
    pub fn take_up_handle(&self) -> io::Result<()> {
        self.open(|| Ok(()))
    }

    /// Does what takes up record locks with their file, which is one handle.
    ///
    /// # Errors
    /// There is no room, or `act`'s.
    pub fn take_up_locks(&self, act: impl FnOnce(&Locks) -> io::Result<()>) -> io::Result<()> {
        // What can't be taken up ends in a reset, which gives the handle back with the lock's entry.
        self.budget.take_handle()?;
        act(&self.locks)
    }

    /// How often the guest was told of each file that it knows.
    pub fn told(&self) -> HashMap<u64, u64> {
        self.nodes().iter().map(|(inode, node)| (*inode, node.lookups)).collect()
    }

    fn nodes(&self) -> MutexGuard<'_, HashMap<u64, Node>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The share itself, as an entry of the server's root.
    ///
    /// # Errors
    /// It is gone, or there is no room.
    pub fn entrance(&self) -> io::Result<Entry> {
        if self.spec.kind == Kind::File {
            let name = std::ffi::CString::new(FILE_NAME).map_err(io::Error::other)?;
            return self.adopt(self.files.lookup(nobody(), ROOT_ID, &name)?);
        }
        let (attr, attr_timeout) = self.files.getattr(nobody(), ROOT_ID, None)?;
        let entry = Entry {
            inode: ROOT_ID,
            generation: 0,
            attr,
            attr_timeout,
            // It may be taken away and another put in its place.
            entry_timeout: Duration::ZERO,
        };
        self.adopt(entry)
    }

    /// Whether the guest was told of this file.
    ///
    /// # Errors
    /// `ESTALE`: it was not.
    pub fn known(&self, inode: u64) -> io::Result<u64> {
        if self.nodes().contains_key(&inode) { Ok(inode) } else { Err(error(libc::ESTALE)) }
    }

    /// Takes what the library found into the books, and shows it as the share's owner wants.
    ///
    /// # Errors
    /// It is no regular file, directory or symbolic link (`ENOENT`), or there is no room.
    pub fn adopt(&self, mut entry: Entry) -> io::Result<Entry> {
        let kind = entry.attr.mode & libc::S_IFMT;
        let known = self.nodes().get(&entry.inode).map(|node| node.shown);
        let taken = match (kind, known) {
            (libc::S_IFREG | libc::S_IFDIR | libc::S_IFLNK, Some(shown)) => Ok(shown),
            (libc::S_IFREG | libc::S_IFDIR | libc::S_IFLNK, None) => self.shown(entry.inode, kind),
            _ => Err(error(libc::ENOENT)),
        };
        let booked = taken.and_then(|shown| {
            let mut nodes = self.nodes();
            if let Some(node) = nodes.get_mut(&entry.inode) {
                node.lookups = node.lookups.saturating_add(1);
                return Ok(node.shown);
            }
            self.budget.take_node()?;
            nodes.insert(entry.inode, Node { lookups: 1, shown });
            Ok(shown)
        });
        match booked {
            Ok(shown) => {
                show(&mut entry.attr, shown);
                entry.attr_timeout = keep::attributes(self.spec.owner, entry.attr.mode);
                Ok(entry)
            }
            Err(error) => {
                self.drop_lookups(entry.inode, 1);
                Err(error)
            }
        }
    }

    /// The library's own reference to the root is not the guest's.
    fn drop_lookups(&self, inode: u64, lookups: u64) {
        if inode != ROOT_ID {
            self.files.forget(nobody(), inode, lookups);
        }
    }

    /// How a file is shown that was not known before.
    fn shown(&self, inode: u64, kind: u32) -> io::Result<Shown> {
        let Owner::Image { first_id } = self.spec.owner else {
            return Ok(Shown::by(self.spec.owner));
        };
        // Attributes of users can't be on a symbolic link.
        if kind == libc::S_IFLNK {
            return Ok(Shown::by(self.spec.owner));
        }
        match self.files.getxattr(nobody(), inode, RECORD, MAX_RECORD) {
            Ok(GetxattrReply::Value(record)) => Ok(Shown::of_image(first_id, &record)),
            Ok(GetxattrReply::Count(_)) => Ok(Shown::by(self.spec.owner)),
            Err(error) => match error.raw_os_error() {
                // None, none on this file system, or far too long.
                Some(libc::ENODATA | libc::ENOTSUP | libc::ERANGE) => {
                    Ok(Shown::by(self.spec.owner))
                }
                _ => Err(error),
            },
        }
    }

    /// The guest forgets a file, so many times; never more than it was told of it.
    pub fn forget(&self, inode: u64, lookups: u64) {
        let mut nodes = self.nodes();
        let Some(node) = nodes.get_mut(&inode) else { return };
        let lookups = lookups.min(node.lookups);
        node.lookups -= lookups;
        let gone = node.lookups == 0;
        if gone {
            nodes.remove(&inode);
        }
        self.drop_lookups(inode, lookups);
        drop(nodes);
        if gone {
            self.budget.give_nodes(1);
            self.budget.give_handles(self.locks.forget(&self.files, inode));
        }
    }

    /// A file's attributes as the guest sees them.
    ///
    /// # Errors
    /// The guest was not told of it, or the system's.
    pub fn attributes(&self, inode: u64, mut attr: Attr) -> io::Result<Attr> {
        let shown = self.nodes().get(&inode).map(|node| node.shown);
        show(&mut attr, shown.ok_or_else(|| error(libc::ESTALE))?);
        Ok(attr)
    }

    /// What of a change of attributes is to be made: no set-id bits, and no change of owners. Saying
    /// the owner that is shown changes nothing.
    ///
    /// # Errors
    /// `EPERM`: another owner.
    pub fn changes(
        &self,
        mut attr: SetattrIn,
        valid: SetattrValid,
    ) -> io::Result<(SetattrIn, SetattrValid)> {
        let Shown { uid, gid, .. } = Shown::by(self.spec.owner);
        let other = (valid.contains(SetattrValid::UID) && attr.uid != uid.into())
            || (valid.contains(SetattrValid::GID) && attr.gid != gid.into());
        if other {
            return Err(error(libc::EPERM));
        }
        attr.mode &= !SET_ID;
        Ok((attr, valid - (SetattrValid::UID | SetattrValid::GID)))
    }

    /// Opens something, within the budget.
    ///
    /// # Errors
    /// `ENFILE`, or `open`'s.
    pub fn open<T>(&self, open: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        self.budget.take_handle()?;
        let opened = open();
        match opened {
            Ok(_) => self.handles.fetch_add(1, Ordering::Relaxed),
            Err(_) => {
                self.budget.give_handles(1);
                0
            }
        };
        opened
    }

    /// Closes something that [`Self::open`] opened.
    pub fn closed(&self) {
        // Never below nothing: a reset may have given it back already.
        let less = |now: u64| now.checked_sub(1);
        if self.handles.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok() {
            self.budget.give_handles(1);
        }
    }

    /// Does something with record locks, which may take or give one handle.
    ///
    /// # Errors
    /// `ENFILE`, or `act`'s.
    pub fn lock<T>(
        &self,
        act: impl FnOnce(&Locks, &PassthroughFs) -> io::Result<T>,
    ) -> io::Result<T> {
        // One at a time: the count before and after tells what it took.
        let before = self.locks.count();
        self.budget.take_handle()?;
        let result = act(&self.locks, &self.files);
        if self.locks.count() <= before {
            self.budget.give_handles(1);
        }
        result
    }

    /// A process of the guest closes a file.
    pub fn close_locks(&self, inode: u64, owner: u64) {
        if self.locks.close(&self.files, inode, owner) {
            self.budget.give_handles(1);
        }
    }

    /// # Errors
    /// `EROFS`: the share is not writable. The kernel says so too, of the mount.
    pub fn writable(&self) -> io::Result<()> {
        if self.spec.writable { Ok(()) } else { Err(error(libc::EROFS)) }
    }

    /// A file by its name, as the library's listing of a directory needs it: one that is gone, or that
    /// is not shown, is no error then.
    ///
    /// # Errors
    /// The system's.
    pub fn lookup(&self, context: Context, parent: u64, name: &CStr) -> io::Result<Entry> {
        self.files.lookup(context, parent, name).and_then(|entry| self.adopt(entry))
    }
}

fn show(attr: &mut Attr, shown: Shown) {
    attr.uid = shown.uid.into();
    attr.gid = shown.gid.into();
    attr.mode = shown.mode(attr.mode);
}

fn count(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}
