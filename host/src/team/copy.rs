//! Copying a directory with everything in it: what agents have written there, while nobody of them writes. Files share their
//! room with the originals where the file system can (reflink), and keep their holes elsewhere.
//!
//! Everything is opened below the two directories, and no link is followed. Paths are gone through one by one, since how
//! deep they are is an agent's choice.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{
    self as sys, AtFlags, Dir, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Timespec,
    Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;

use crate::template::content;

/// No way out: not upwards, not by a link of either kind, not into another file system.
const INSIDE: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_XDEV);
const LOOK: OFlags = OFlags::RDONLY.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// Longest list of a file's attributes, and longest value, in bytes (the kernel's own bounds: `XATTR_LIST_MAX`,
/// `XATTR_SIZE_MAX`).
const MAX_ATTRIBUTE: usize = 64 << 10;

/// Copies what is in `from` into `to`, which is empty.
///
/// # Errors
/// Something in it is no file, directory or link, or the file system refuses; with the path.
pub(super) fn copy_tree(from: &OwnedFd, to: &OwnedFd) -> io::Result<()> {
    let mut tree = Tree { from, to, links: HashMap::new() };
    let mut directories = vec![b".".to_vec()];
    let mut next = 0;
    while let Some(path) = directories.get(next).cloned() {
        for name in names(&open(from, &path, LOOK | OFlags::DIRECTORY)?)? {
            let path = if path == b"." { name } else { [path.as_slice(), b"/", &name].concat() };
            let is_directory = tree.copy(&path).map_err(|error| {
                let shown = crate::text::printable(&path);
                io::Error::new(error.kind(), format!("{shown}: {error}"))
            })?;
            if is_directory {
                directories.push(path);
            }
        }
        next += 1;
    }
    // What is made in a directory changes it: those come last.
    for path in directories.iter().rev() {
        let (old, new) = (open(from, path, LOOK)?, open(to, path, LOOK)?);
        dress(&old, &new)?;
    }
    Ok(())
}

struct Tree<'a> {
    from: &'a OwnedFd,
    to: &'a OwnedFd,
    /// Files with several names that were copied: by device and number, with their first path.
    links: HashMap<(u64, u64), Vec<u8>>,
}

impl Tree<'_> {
    /// Copies one thing; whether it is a directory, which is made empty.
    fn copy(&mut self, path: &[u8]) -> io::Result<bool> {
        let stat = sys::statat(self.from, path, AtFlags::SYMLINK_NOFOLLOW)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                sys::mkdirat(self.to, path, Mode::RWXU)?;
                return Ok(true);
            }
            FileType::Symlink => {
                let target = sys::readlinkat(self.from, path, Vec::new())?;
                sys::symlinkat(target, self.to, path)?;
                own(self.to, path, &stat)?;
            }
            FileType::RegularFile => self.copy_file(path, &stat)?,
            _ => {
                let words = "it is neither a file nor a directory nor a link";
                return Err(io::Error::new(io::ErrorKind::InvalidInput, words));
            }
        }
        Ok(false)
    }

    fn copy_file(&mut self, path: &[u8], stat: &Stat) -> io::Result<()> {
        if stat.st_nlink > 1 {
            let key = (stat.st_dev, stat.st_ino);
            if let Some(first) = self.links.get(&key) {
                return Ok(sys::linkat(self.to, first, self.to, path, AtFlags::empty())?);
            }
            self.links.insert(key, path.to_vec());
        }
        let old = open(self.from, path, LOOK | OFlags::NONBLOCK)?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let new = sys::openat2(self.to, path, flags, Mode::RUSR | Mode::WUSR, INSIDE)?;
        let (old, new) = (File::from(old), File::from(new));
        if sys::ioctl_ficlone(&new, &old).is_err() {
            // This file system can't share, or the two are on different ones.
            content::copy(&old, &new)?;
        }
        dress(old.as_fd(), new.as_fd())
    }
}

fn open(root: &OwnedFd, path: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
    Ok(sys::openat2(root, path, flags, Mode::empty(), INSIDE)?)
}

fn names(directory: &OwnedFd) -> io::Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.push(name);
        }
    }
    Ok(names)
}

/// Gives a file owner, mode, attributes and times of another.
fn dress(old: impl AsFd, new: impl AsFd) -> io::Result<()> {
    let stat = sys::fstat(&old)?;
    let is = sys::fstat(&new)?;
    if (is.st_uid, is.st_gid) != (stat.st_uid, stat.st_gid) {
        sys::fchown(&new, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
    }
    copy_attributes(&old, &new)?;
    sys::fchmod(&new, Mode::from_raw_mode(stat.st_mode))?;
    let time = |seconds, nanoseconds| Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    let nanoseconds = |part: u64| i64::try_from(part).unwrap_or(0);
    let times = Timestamps {
        last_access: time(stat.st_atime, nanoseconds(stat.st_atime_nsec)),
        last_modification: time(stat.st_mtime, nanoseconds(stat.st_mtime_nsec)),
    };
    Ok(sys::futimens(&new, &times)?)
}

/// Gives a link its owner.
fn own(to: &OwnedFd, path: &[u8], stat: &Stat) -> io::Result<()> {
    let is = sys::statat(to, path, AtFlags::SYMLINK_NOFOLLOW)?;
    if (is.st_uid, is.st_gid) != (stat.st_uid, stat.st_gid) {
        let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
        sys::chownat(to, path, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    }
    Ok(())
}

/// Attributes of users: others are the host's.
fn copy_attributes(old: impl AsFd, new: impl AsFd) -> io::Result<()> {
    let mut list = vec![0; MAX_ATTRIBUTE];
    let length = match sys::flistxattr(&old, &mut list) {
        Err(Errno::NOTSUP) => return Ok(()),
        length => length?,
    };
    let list = list.get(..length).unwrap_or_default();
    let mut value = vec![0; MAX_ATTRIBUTE];
    for name in list.split(|byte| *byte == 0).filter(|name| name.starts_with(b"user.")) {
        let length = sys::fgetxattr(&old, name, &mut value)?;
        let value = value.get(..length).unwrap_or_default();
        sys::fsetxattr(&new, name, value, XattrFlags::empty())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
    use std::time::{Duration, SystemTime};

    use super::*;

    fn pair() -> (tempfile::TempDir, OwnedFd, OwnedFd) {
        let folder = tempfile::tempdir().unwrap();
        let make = |name: &str| {
            fs::create_dir(folder.path().join(name)).unwrap();
            OwnedFd::from(File::open(folder.path().join(name)).unwrap())
        };
        let (from, to) = (make("from"), make("to"));
        (folder, from, to)
    }

    #[test]
    fn everything_is_copied_as_it_was() {
        let (folder, from, to) = pair();
        let (old, new) = (folder.path().join("from"), folder.path().join("to"));
        fs::create_dir_all(old.join("a/b")).unwrap();
        fs::write(old.join("a/b/f"), "text").unwrap();
        fs::set_permissions(old.join("a/b/f"), fs::Permissions::from_mode(0o4751)).unwrap();
        fs::hard_link(old.join("a/b/f"), old.join("other")).unwrap();
        symlink("../../etc/passwd", old.join("a/link")).unwrap();
        let sparse = File::create(old.join("sparse")).unwrap();
        sparse.set_len(64 << 20).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&sparse, b"x", 9 << 20).unwrap();
        sys::fsetxattr(&sparse, "user.tag", b"value", XattrFlags::empty()).unwrap();
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        sparse.set_modified(time).unwrap();
        File::open(old.join("a")).unwrap().set_modified(time).unwrap();
        copy_tree(&from, &to).unwrap();

        assert_eq!(fs::read(new.join("a/b/f")).unwrap(), b"text");
        let (one, other) =
            (fs::metadata(new.join("a/b/f")).unwrap(), fs::metadata(new.join("other")).unwrap());
        assert_eq!((one.mode() & 0o7777, one.ino(), one.nlink()), (0o4751, other.ino(), 2));
        assert_eq!(fs::read_link(new.join("a/link")).unwrap().to_str(), Some("../../etc/passwd"));
        let copied = fs::metadata(new.join("sparse")).unwrap();
        assert!(copied.len() == 64 << 20 && copied.blocks() < 1024, "{} blocks", copied.blocks());
        assert_eq!(copied.modified().unwrap(), time);
        assert_eq!(fs::metadata(new.join("a")).unwrap().modified().unwrap(), time);
        let mut value = [0; 16];
        let file = File::open(new.join("sparse")).unwrap();
        let length = sys::fgetxattr(&file, "user.tag", &mut value).unwrap();
        assert_eq!(value.get(..length), Some(&b"value"[..]));
        // The copy is another file.
        fs::write(new.join("a/b/f"), "changed").unwrap();
        assert_eq!(fs::read(old.join("a/b/f")).unwrap(), b"text");
    }

    #[test]
    fn depth_is_no_matter_and_what_is_no_file_is_told() {
        let (folder, from, to) = pair();
        let old = folder.path().join("from");
        fs::create_dir_all(old.join("d/".repeat(1000))).unwrap();
        copy_tree(&from, &to).unwrap();
        assert!(folder.path().join("to").join("d/".repeat(1000)).exists());

        let (folder, from, to) = pair();
        let fifo = folder.path().join("from/fifo");
        sys::mknodat(sys::CWD, &fifo, FileType::Fifo, Mode::RUSR, 0).unwrap();
        let error = copy_tree(&from, &to).unwrap_err().to_string();
        assert!(error.starts_with("fifo: it is neither"), "{error}");
    }
}
