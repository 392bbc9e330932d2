//! The tree that an image is unpacked into: reached by descriptors alone, never through a link.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;

use rustix::fs::{self as sys, AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use super::fault::Fault;

/// How a directory is opened to look into it.
const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// No way out: not upwards, not by a link of either kind, not into another file system.
const INSIDE: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_XDEV);
/// Every directory's mode on the host; the image's is recorded beside it.
pub(super) const HOST_DIRECTORY: Mode = Mode::from_raw_mode(0o755);

/// A tree, by a descriptor of its root.
#[derive(Debug)]
pub struct Tree {
    root: OwnedFd,
}

/// What was there before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing.
    Nothing,
    /// A directory.
    Directory,
    /// Anything else.
    Other,
}

impl Tree {
    /// The tree below a directory.
    #[must_use]
    pub const fn new(root: OwnedFd) -> Self {
        Self { root }
    }

    /// The root.
    #[must_use]
    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Opens a directory by its names; nothing if it is not there.
    ///
    /// # Errors
    /// The way leads through a link or a file, or the file system refuses.
    pub fn open(&self, names: &[Vec<u8>]) -> Result<Option<OwnedFd>, Fault> {
        let path = if names.is_empty() { b".".to_vec() } else { names.join(&b'/') };
        match sys::openat2(&self.root, path, DIRECTORY, Mode::empty(), INSIDE) {
            Ok(directory) => Ok(Some(directory)),
            Err(Errno::NOENT) => Ok(None),
            // A link, a file, or another file system in the way.
            Err(Errno::LOOP | Errno::NOTDIR | Errno::XDEV) => Err(Fault::Through),
            Err(error) => Err(Fault::store("open a directory")(error)),
        }
    }
}

/// What is called `name` in a directory.
pub(super) fn look(directory: BorrowedFd<'_>, name: &[u8]) -> Result<Option<Stat>, Fault> {
    match sys::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(Fault::store("look at a file")(error)),
    }
}

pub(super) fn found(stat: Option<&Stat>) -> Found {
    match stat {
        None => Found::Nothing,
        Some(stat) if is_directory(stat) => Found::Directory,
        Some(_) => Found::Other,
    }
}

pub(super) fn is_directory(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

/// Opens a directory that is right below `directory`.
pub(super) fn enter(directory: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Fault> {
    sys::openat(directory, name, DIRECTORY, Mode::empty()).map_err(Fault::store("open a directory"))
}

/// The names in a directory, in the order of their bytes.
pub(crate) fn list(directory: BorrowedFd<'_>) -> io::Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(name.to_vec());
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// Removes what is called `name` with everything in it; nothing is there is no error.
///
/// # Errors
/// The file system refuses.
pub fn remove_all(directory: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    match sys::unlinkat(directory, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(error) => return Err(error.into()),
    }
    let inner = sys::openat(directory, name, DIRECTORY, Mode::empty())?;
    for child in list(inner.as_fd())? {
        remove_all(inner.as_fd(), OsStr::from_bytes(&child))?;
    }
    sys::unlinkat(directory, name, AtFlags::REMOVEDIR)?;
    Ok(())
}
