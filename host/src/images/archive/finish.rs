//! The last walk over an unpacked tree: times of directories, owners of links, and what it came to.

use std::io::{self, Write};
use std::os::fd::BorrowedFd;

use rustix::fs as sys;

use super::apply::Applier;
use super::attributes;
use super::fault::Fault;
use super::tree;

/// What a tree came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extent {
    /// Files, directories and links, without the root; each name of a file counts.
    pub entries: u64,
    /// Bytes on the disk.
    pub bytes: u64,
}

/// The unit of `st_blocks` (stat(3type)).
const STAT_BLOCK: u64 = 512;

impl Applier {
    /// Sets the times of directories, and writes the owners of symbolic links into `owners`: for
    /// each that is not root's a line `UID:GID `, its path and a NUL.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn finish(self, owners: &mut impl Write) -> Result<Extent, Fault> {
        let mut extent = Extent::default();
        let mut path = Vec::new();
        self.walk(self.tree.root(), &mut path, &mut extent, owners)?;
        Ok(extent)
    }

    fn walk(
        &self,
        directory: BorrowedFd<'_>,
        path: &mut Vec<u8>,
        extent: &mut Extent,
        owners: &mut impl Write,
    ) -> Result<(), Fault> {
        use std::os::fd::AsFd as _;
        let names = tree::list(directory).map_err(Fault::store("read a directory"))?;
        for name in names {
            let Some(stat) = tree::look(directory, &name)? else { continue };
            let length = path.len();
            if length > 0 {
                path.push(b'/');
            }
            path.extend_from_slice(&name);
            extent.entries += 1;
            let blocks = u64::try_from(stat.st_blocks).unwrap_or(0);
            // A file of several names is counted once, at a share for each.
            let shares = stat.st_nlink.max(1);
            if tree::is_directory(&stat) {
                extent.bytes += blocks * STAT_BLOCK;
                let inner = tree::enter(directory, &name)?;
                self.walk(inner.as_fd(), path, extent, owners)?;
            } else {
                extent.bytes += blocks * STAT_BLOCK / shares;
                self.write_owner(stat.st_ino, path, owners)
                    .map_err(Fault::store("write a list"))?;
            }
            path.truncate(length);
        }
        let stat = sys::fstat(directory).map_err(Fault::store("look at a directory"))?;
        let time = self.times.get(&stat.st_ino).copied().unwrap_or((0, 0));
        sys::futimens(directory, &attributes::times(time)).map_err(Fault::store("set a time"))
    }

    fn write_owner(&self, inode: u64, path: &[u8], owners: &mut impl Write) -> io::Result<()> {
        let Some(owner) = self.link_owners.get(&inode) else { return Ok(()) };
        write!(owners, "{}:{} ", owner.uid, owner.gid)?;
        owners.write_all(path)?;
        owners.write_all(&[0])
    }
}
