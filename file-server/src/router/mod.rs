//! The one file system that the guest mounts: a directory of all shares, and behind each name a share.
//!
//! A node id and a handle are the share's number in the upper bits and the library's own in the lower.
//! Share 0 is the directory of shares itself.

mod files;

mod rules;

mod names;

mod carry;

pub use carry::Turn;

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, PoisonError, RwLock};

use virtiofsd::fuse::{FileLock, LkIn};

use crate::budget::Budget;
use crate::control::Refusal;
use crate::locks::Kind;
use crate::share::Share;
use crate::spec::{MAX_SHARES, ShareSpec};
use carry::Turns;

/// Lower bits: the library counts files and handles from 1 on and never comes near the end.
const SHARE_SHIFT: u32 = 48;
/// All that the library may count to.
pub const INNER: u64 = (1 << SHARE_SHIFT) - 1;
/// Inode numbers of a share are mixed with its number here, far above what file systems count to.
const INO_SHIFT: u32 = 52;

/// A system's error by its number.
#[must_use]
pub fn error(errno: i32) -> io::Error {
    io::Error::from_raw_os_error(errno)
}

#[derive(Debug)]
struct State {
    shares: RwLock<Vec<Arc<Share>>>,
    processes: File,
    budget: Arc<Budget>,
    turns: Turns,
}

/// The file system. A clone is the same one.
#[derive(Clone, Debug)]
pub struct Router(Arc<State>);

impl Router {
    /// Without shares. `processes`: the directory `/proc/self/fd`. Guests can take `descriptors`.
    #[must_use]
    pub fn new(processes: File, descriptors: u64) -> Self {
        let budget = Arc::new(Budget::new(descriptors));
        let (shares, turns) = (RwLock::default(), Turns::default());
        Self(Arc::new(State { shares, processes, budget, turns }))
    }

    /// Adds a share; the guest sees it from now on. Changes the calling thread's working directory for
    /// a moment.
    ///
    /// # Errors
    /// It can't be served; nothing has changed then.
    pub fn add(&self, spec: ShareSpec, mount: OwnedFd) -> Result<(), Refusal> {
        spec.validate().map_err(|_| Refusal::Spec)?;
        let taken = |shares: &[Arc<Share>]| {
            let same = shares.iter().any(|share| share.spec.name == spec.name);
            let refusal = if same { Some(Refusal::Name) } else { None };
            refusal.or((shares.len() >= MAX_SHARES).then_some(Refusal::TooMany))
        };
        if let Some(refusal) = taken(&self.shares()) {
            return Err(refusal);
        }
        let open =
            |source: io::Error| Refusal::Open { errno: source.raw_os_error().unwrap_or(libc::EIO) };
        let processes = self.0.processes.try_clone().map_err(open)?;
        let share = Share::new(spec, mount, processes, Arc::clone(&self.0.budget)).map_err(open)?;
        // Only the main thread adds, so nothing came in between.
        let mut shares = self.0.shares.write().unwrap_or_else(PoisonError::into_inner);
        shares.push(Arc::new(share));
        Ok(())
    }

    fn shares(&self) -> Vec<Arc<Share>> {
        self.0.shares.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The share of a node id or handle, and the library's own number; `None`: the directory of shares.
    fn split(&self, id: u64) -> io::Result<Option<(Place, u64)>> {
        let Ok(number) = usize::try_from(id >> SHARE_SHIFT) else {
            return Err(error(libc::ESTALE));
        };
        let Some(index) = number.checked_sub(1) else { return Ok(None) };
        let shares = self.0.shares.read().unwrap_or_else(PoisonError::into_inner);
        let share = shares.get(index).ok_or_else(|| error(libc::ESTALE))?;
        Ok(Some((Place { number: id >> SHARE_SHIFT, share: Arc::clone(share) }, id & INNER)))
    }

    /// The share of a file that the guest was told of. The directory of shares is none.
    fn file(&self, node: u64) -> io::Result<(Place, u64)> {
        let (place, inode) = self.split(node)?.ok_or_else(|| error(libc::EPERM))?;
        place.share.known(inode)?;
        Ok((place, inode))
    }

    /// The same, if the share is writable. In the directory of shares nothing can be made or changed.
    fn writable(&self, node: u64) -> io::Result<(Place, u64)> {
        let (place, inode) = self.split(node)?.ok_or_else(|| error(libc::EROFS))?;
        place.share.known(inode)?;
        place.share.writable()?;
        Ok((place, inode))
    }

    /// A request about locks, which the library has no place for.
    ///
    /// # Errors
    /// `EAGAIN`: another lock is in the way; else what is wrong with it.
    pub fn lock(&self, node: u64, kind: Kind, request: &LkIn) -> io::Result<Option<FileLock>> {
        let (place, inode) = self.file(node)?;
        let handle = place.handle(request.fh)?;
        place.share.lock(|locks, files| locks.request(files, inode, handle, kind, request))
    }
}

/// A share and its number.
#[derive(Clone, Debug)]
struct Place {
    number: u64,
    share: Arc<Share>,
}

impl Place {
    /// The node id or handle for one of the library's.
    fn join(&self, inner: u64) -> io::Result<u64> {
        if inner > INNER {
            return Err(error(libc::EOVERFLOW));
        }
        Ok(self.number << SHARE_SHIFT | inner)
    }

    /// The library's handle, if it is of this share.
    fn handle(&self, handle: u64) -> io::Result<u64> {
        if handle >> SHARE_SHIFT == self.number {
            Ok(handle & INNER)
        } else {
            Err(error(libc::EBADF))
        }
    }

    /// Files of different shares have different numbers, though they may lie on different file systems.
    const fn ino(&self, ino: u64) -> u64 {
        ino ^ (self.number << INO_SHIFT)
    }
}
