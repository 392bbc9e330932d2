//! Removes what a layer whites out or replaces, and keeps what the same layer made.

use std::ffi::OsStr;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::ffi::OsStrExt as _;

use rustix::fs::{self as sys, AtFlags};

use super::apply::Applier;
use super::fault::Fault;
use super::tree::{self, Found};

/// How often whiteouts may look at files, for each entry that an image may have. Stops a layer that
/// whites out a large directory again and again: the time would grow with the square of its size.
const VISITS: u64 = 4;

impl Applier {
    /// Removes `name` of a directory as the layers below had it.
    pub(super) fn white_out(&mut self, parents: &[Vec<u8>], name: &[u8]) -> Result<(), Fault> {
        let Some(folder) = self.tree.open(parents)? else { return Ok(()) };
        let mut path = parents.to_vec();
        path.push(name.to_vec());
        self.remove_below(folder.as_fd(), &mut path)
    }

    /// Removes everything in a directory that the layers below had.
    pub(super) fn clear_directory(&mut self, names: &[Vec<u8>]) -> Result<(), Fault> {
        let Some(folder) = self.tree.open(names)? else { return Ok(()) };
        let mut path = names.to_vec();
        for child in tree::list(folder.as_fd()).map_err(Fault::store("read a directory"))? {
            path.push(child);
            self.remove_below(folder.as_fd(), &mut path)?;
            path.pop();
        }
        Ok(())
    }

    /// Removes the last name of `path`, which is in `folder`, but for what this layer made.
    fn remove_below(
        &mut self,
        folder: BorrowedFd<'_>,
        path: &mut Vec<Vec<u8>>,
    ) -> Result<(), Fault> {
        let Some(name) = path.last().cloned() else { return Ok(()) };
        self.visits += 1;
        if self.visits > self.limits.entries.saturating_mul(VISITS) {
            return Err(Fault::Whiteouts);
        }
        if !self.made.contains(&self.hash(path)) {
            return self.remove(folder, &name);
        }
        let stat = tree::look(folder, &name)?;
        if tree::found(stat.as_ref()) != Found::Directory {
            return Ok(());
        }
        let inner = tree::enter(folder, &name)?;
        for child in tree::list(inner.as_fd()).map_err(Fault::store("read a directory"))? {
            path.push(child);
            self.remove_below(inner.as_fd(), path)?;
            path.pop();
        }
        Ok(())
    }

    /// Removes a name with everything below it, and what was remembered of it.
    pub(super) fn remove(&mut self, folder: BorrowedFd<'_>, name: &[u8]) -> Result<(), Fault> {
        self.last = None;
        let Some(stat) = tree::look(folder, name)? else { return Ok(()) };
        if tree::is_directory(&stat) {
            let inner = tree::enter(folder, name)?;
            for child in tree::list(inner.as_fd()).map_err(Fault::store("read a directory"))? {
                self.remove(inner.as_fd(), &child)?;
            }
            self.times.remove(&stat.st_ino);
            return sys::unlinkat(folder, name, AtFlags::REMOVEDIR)
                .map_err(Fault::store("remove a directory"));
        }
        if stat.st_nlink == 1 {
            self.link_owners.remove(&stat.st_ino);
        }
        sys::unlinkat(folder, OsStr::from_bytes(name), AtFlags::empty())
            .map_err(Fault::store("remove a file"))
    }
}
