//! Locks of guests, as locks on the host's files: so a program of the host and one of the guest can
//! keep out of each other's way.
//!
//! A record lock belongs to a process of the guest and a file. For each such pair the server opens the
//! file once and locks by that open file (`F_OFD_SETLK`): closing it gives every lock back, as the end
//! of the process does in the guest. A lock of a whole file (`flock`) belongs to the guest's open file,
//! and is put on its counterpart here. What is locked is noted, so that another server can lock it again
//! (see [`crate::carried`]).

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use virtiofsd::filesystem::{Context, FileSystem as _, ZeroCopyWriter};
use virtiofsd::fuse::{FileLock, LK_FLOCK, LkIn};
use virtiofsd::oslib::ReadvFlags;
use virtiofsd::passthrough::PassthroughFs;

use crate::limits::MAX_LOCKED_RANGES;
use crate::ranges::Ranges;
use crate::router::error;
use crate::sys::{self, Record};

/// No caller: see [`crate::decode::check`].
#[must_use]
pub fn nobody() -> Context {
    Context { uid: 0.into(), gid: 0.into(), pid: 0 }
}

/// Lets somebody use the open file of a handle: the library gives it to whoever reads from it.
struct Borrower<'a, T, Act> {
    act: Option<Act>,
    result: &'a mut Option<io::Result<T>>,
}

impl<T, Act: FnOnce(&File) -> io::Result<T>> ZeroCopyWriter for Borrower<'_, T, Act> {
    fn read_from_file_at(
        &mut self,
        file: &File,
        _count: usize,
        _offset: u64,
        _flags: Option<ReadvFlags>,
    ) -> io::Result<usize> {
        if let Some(act) = self.act.take() {
            *self.result = Some(act(file));
        }
        Ok(0)
    }
}

/// Uses the open file of a handle. `act` must not wait.
///
/// # Errors
/// There is no such handle, or `act`'s.
pub fn with_file<T>(
    files: &PassthroughFs,
    inode: u64,
    handle: u64,
    act: impl FnOnce(&File) -> io::Result<T>,
) -> io::Result<T> {
    let mut result = None;
    let borrower = Borrower { act: Some(act), result: &mut result };
    files.read(nobody(), inode, handle, borrower, 0, 0, None, 0)?;
    result.unwrap_or_else(|| Err(error(libc::EIO)))
}

/// The record locks of a process on a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// The library's handle of the file that holds them.
    pub handle: u64,
    /// What they are about.
    pub ranges: Ranges,
}

/// A lock of a whole file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Whole {
    /// Others may have the same.
    Shared,
    /// Nobody else has any.
    Exclusive,
}

#[derive(Clone, Debug, Default)]
struct Books {
    /// By file and owner.
    held: HashMap<(u64, u64), Held>,
    /// By the library's handle.
    whole: HashMap<u64, Whole>,
    /// Of all in `held`.
    ranges: usize,
}

/// The locks of one share.
#[derive(Debug, Default)]
pub struct Locks(Mutex<Books>);

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Ask for a lock in the way.
    Test,
    /// Set or clear.
    Set,
}

impl Locks {
    /// Does what a lock request says; a test's answer.
    ///
    /// # Errors
    /// It does not fit (`EAGAIN`: another lock is in the way), or the system's.
    pub fn request(
        &self,
        files: &PassthroughFs,
        inode: u64,
        handle: u64,
        kind: Kind,
        request: &LkIn,
    ) -> io::Result<Option<FileLock>> {
        if request.lk_flags & LK_FLOCK != 0 {
            return match kind {
                Kind::Set => {
                    self.whole(files, inode, handle, whole(request.lk.type_)?).map(|()| None)
                }
                Kind::Test => Err(error(libc::EINVAL)),
            };
        }
        let record = Record::new(request.lk.type_, request.lk.start, request.lk.end)
            .ok_or_else(|| error(libc::EINVAL))?;
        // Whoever locks has the file open.
        with_file(files, inode, handle, |_| Ok(()))?;
        let mut books = self.books();
        let own = books.held.get(&(inode, request.owner)).map(|held| held.handle);
        match (kind, own) {
            (Kind::Test, own) => {
                let found = with_file(files, inode, own.unwrap_or(handle), |file| {
                    sys::test_lock(file, record)
                })?;
                let free = FileLock { type_: kind_number(libc::F_UNLCK), ..request.lk };
                Ok(Some(found.map_or(free, |found| FileLock {
                    start: found.start,
                    end: found.end,
                    type_: found.kind,
                    pid: 0,
                })))
            }
            (Kind::Set, None) if record.is_unlock() => Ok(None),
            (Kind::Set, own) => {
                let handle = own.map_or_else(|| open(files, inode), Ok)?;
                let locked = books.set(files, (inode, request.owner), handle, record);
                if locked.is_err() && own.is_none() {
                    release(files, inode, handle);
                }
                locked.map(|()| None)
            }
        }
    }

    /// `flock`, without waiting; `None` unlocks.
    ///
    /// # Errors
    /// `EAGAIN`: another lock is in the way; else the system's.
    pub fn whole(
        &self,
        files: &PassthroughFs,
        inode: u64,
        handle: u64,
        whole: Option<Whole>,
    ) -> io::Result<()> {
        let operation = match whole {
            Some(Whole::Shared) => FlockOperation::NonBlockingLockShared,
            Some(Whole::Exclusive) => FlockOperation::NonBlockingLockExclusive,
            None => FlockOperation::NonBlockingUnlock,
        };
        let mut books = self.books();
        let mut tried = false;
        let locked = with_file(files, inode, handle, |file| {
            tried = true;
            flock(file, operation).map_err(io::Error::from)
        });
        match (&locked, whole) {
            (Ok(()), Some(whole)) => {
                books.whole.insert(handle, whole);
            }
            (Ok(()), None) => {
                books.whole.remove(&handle);
            }
            // A kernel takes the old lock away before it looks whether the other one can be had.
            (Err(_), _) if tried && books.whole.get(&handle).copied() != whole => {
                books.whole.remove(&handle);
            }
            (Err(_), _) => {}
        }
        locked
    }

    /// Record locks that another server had, with the file that it had opened for them.
    ///
    /// # Errors
    /// `EAGAIN`: somebody else has one that is in the way; else the system's.
    pub fn take_up(
        &self,
        files: &PassthroughFs,
        (inode, owner): (u64, u64),
        handle: u64,
        records: impl Iterator<Item = Record>,
    ) -> io::Result<()> {
        let mut books = self.books();
        // Without a range as well: its process may take one later, and counts as a handle until then.
        books.held.insert((inode, owner), Held { handle, ranges: Ranges::default() });
        for record in records {
            books.set(files, (inode, owner), handle, record)?;
        }
        Ok(())
    }

    /// A process of the guest closes the file: its locks are gone.
    pub fn close(&self, files: &PassthroughFs, inode: u64, owner: u64) -> bool {
        let mut books = self.books();
        let own = books.held.remove(&(inode, owner));
        if let Some(Held { handle, ranges }) = &own {
            books.ranges -= ranges.count();
            release(files, inode, *handle);
        }
        own.is_some()
    }

    /// An open file of the guest is closed, and its lock is gone.
    pub fn closed(&self, handle: u64) {
        self.books().whole.remove(&handle);
    }

    /// The guest does not know the file any more. Returns how many locks went with it.
    pub fn forget(&self, files: &PassthroughFs, inode: u64) -> u64 {
        let mut books = self.books();
        let (before, mut ranges) = (books.held.len(), books.ranges);
        books.held.retain(|(locked, _), held| {
            let keep = *locked != inode;
            if !keep {
                ranges -= held.ranges.count();
                release(files, inode, held.handle);
            }
            keep
        });
        books.ranges = ranges;
        u64::try_from(before - books.held.len()).unwrap_or(0)
    }

    /// How many pairs of process and file have locks.
    pub fn count(&self) -> u64 {
        u64::try_from(self.books().held.len()).unwrap_or(u64::MAX)
    }

    /// All are gone; the library has closed the files.
    pub fn clear(&self) {
        *self.books() = Books::default();
    }

    /// Record locks by file and owner.
    pub fn held(&self) -> HashMap<(u64, u64), Held> {
        self.books().held.clone()
    }

    /// Locks of whole files by handle.
    pub fn wholes(&self) -> HashMap<u64, Whole> {
        self.books().whole.clone()
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Books {
    fn set(
        &mut self,
        files: &PassthroughFs,
        (inode, owner): (u64, u64),
        handle: u64,
        record: Record,
    ) -> io::Result<()> {
        let held = self.held.get(&(inode, owner));
        let mut ranges = held.map(|held| held.ranges.clone()).unwrap_or_default();
        let others = self.ranges - ranges.count();
        ranges.set(record);
        let count = others + ranges.count();
        // Giving back may cut one range in two, so it is refused as well.
        if count > MAX_LOCKED_RANGES && count > self.ranges {
            return Err(error(libc::ENOLCK));
        }
        with_file(files, inode, handle, |file| sys::set_lock(file, record))?;
        self.ranges = count;
        self.held.insert((inode, owner), Held { handle, ranges });
        Ok(())
    }
}

/// The file anew, for writing if that is possible: only then can it be locked against readers.
fn open(files: &PassthroughFs, inode: u64) -> io::Result<u64> {
    let open = |flags: i32| files.open(nobody(), inode, false, flags.unsigned_abs());
    let (handle, _) = match open(libc::O_RDWR) {
        Err(error)
            if matches!(error.raw_os_error(), Some(libc::EROFS | libc::EACCES | libc::EPERM)) =>
        {
            open(libc::O_RDONLY)?
        }
        opened => opened?,
    };
    handle.ok_or_else(|| error(libc::EIO))
}

fn release(files: &PassthroughFs, inode: u64, handle: u64) {
    // It was opened here, so it is there.
    files.release(nobody(), inode, 0, handle, false, false, None).ok();
}

fn whole(kind: u32) -> io::Result<Option<Whole>> {
    match i32::try_from(kind) {
        Ok(libc::F_RDLCK) => Ok(Some(Whole::Shared)),
        Ok(libc::F_WRLCK) => Ok(Some(Whole::Exclusive)),
        Ok(libc::F_UNLCK) => Ok(None),
        _ => Err(error(libc::EINVAL)),
    }
}

fn kind_number(kind: i32) -> u32 {
    kind.unsigned_abs()
}
