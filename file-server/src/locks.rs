//! Locks of guests, as locks on the host's files: so a program of the host and one of the guest can
//! keep out of each other's way.
//!
//! A record lock belongs to a process of the guest and a file. For each such pair the server opens the
//! file once and locks by that open file (`F_OFD_SETLK`): closing it gives every lock back, as the end
//! of the process does in the guest. A lock of a whole file (`flock`) belongs to the guest's open file,
//! and is put on its counterpart here.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::sync::{Mutex, PoisonError};

use rustix::fs::{FlockOperation, flock};
use virtiofsd::filesystem::{Context, FileSystem as _, ZeroCopyWriter};
use virtiofsd::fuse::{FileLock, LK_FLOCK, LkIn};
use virtiofsd::oslib::ReadvFlags;
use virtiofsd::passthrough::PassthroughFs;

use crate::router::error;
use crate::sys;

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

/// The record locks of one share.
#[derive(Debug, Default)]
pub struct Locks {
    /// By file and owner: the library's handle of the file that holds them.
    held: Mutex<HashMap<(u64, u64), u64>>,
}

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
                Kind::Set => whole(files, inode, handle, request.lk.type_).map(|()| None),
                Kind::Test => Err(error(libc::EINVAL)),
            };
        }
        let record = sys::Record::new(request.lk.type_, request.lk.start, request.lk.end)
            .ok_or_else(|| error(libc::EINVAL))?;
        // Whoever locks has the file open.
        with_file(files, inode, handle, |_| Ok(()))?;
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let own = held.get(&(inode, request.owner)).copied();
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
            (Kind::Set, None) => {
                let opened = open(files, inode)?;
                let locked = with_file(files, inode, opened, |file| sys::set_lock(file, record));
                match locked {
                    Ok(()) => {
                        held.insert((inode, request.owner), opened);
                    }
                    Err(_) => release(files, inode, opened),
                }
                locked.map(|()| None)
            }
            (Kind::Set, Some(own)) => {
                with_file(files, inode, own, |file| sys::set_lock(file, record)).map(|()| None)
            }
        }
    }

    /// A process of the guest closes the file: its locks are gone.
    pub fn close(&self, files: &PassthroughFs, inode: u64, owner: u64) -> bool {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let own = held.remove(&(inode, owner));
        if let Some(handle) = own {
            release(files, inode, handle);
        }
        own.is_some()
    }

    /// The guest does not know the file any more. Returns how many locks went with it.
    pub fn forget(&self, files: &PassthroughFs, inode: u64) -> u64 {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let before = held.len();
        held.retain(|(locked, _), handle| {
            let keep = *locked != inode;
            if !keep {
                release(files, inode, *handle);
            }
            keep
        });
        u64::try_from(before - held.len()).unwrap_or(0)
    }

    /// How many pairs of process and file have locks.
    pub fn count(&self) -> u64 {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        u64::try_from(held.len()).unwrap_or(u64::MAX)
    }

    /// All are gone; the library has closed the files.
    pub fn clear(&self) {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).clear();
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

/// `flock`, without waiting.
fn whole(files: &PassthroughFs, inode: u64, handle: u64, kind: u32) -> io::Result<()> {
    let operation = match i32::try_from(kind) {
        Ok(libc::F_RDLCK) => FlockOperation::NonBlockingLockShared,
        Ok(libc::F_WRLCK) => FlockOperation::NonBlockingLockExclusive,
        Ok(libc::F_UNLCK) => FlockOperation::NonBlockingUnlock,
        _ => return Err(error(libc::EINVAL)),
    };
    with_file(files, inode, handle, |file| flock(file, operation).map_err(io::Error::from))
}

fn kind_number(kind: i32) -> u32 {
    kind.unsigned_abs()
}
