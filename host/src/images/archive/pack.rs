//! Makes a layer of a directory: a tar archive in a fixed order, with owners, modes, times, links
//! and attributes as they are.
//!
//! The directory is the operator's own; it is walked by descriptors all the same, so that what is
//! exchanged meanwhile leads nowhere. A mount point is taken as an empty directory.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read as _, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use rustix::fs::{self as sys, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use tar::{Builder, EntryType, Header};

use super::apply::Specials;
use super::attributes;
use super::tree::list;
use crate::images::limits::{Limits, MAX_XATTR_VALUE};

/// Most bytes of the list of a file's attribute names: Linux's XATTR_LIST_MAX.
const MAX_XATTR_LIST: usize = 65_536;

/// Why a directory can't be made into a layer.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// It can't be read.
    #[error("can't read {}", path.display())]
    Read {
        /// Which file, below the directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The archive can't be written.
    #[error("can't write the layer into the store")]
    Write(#[source] io::Error),
    /// A device, a FIFO or a socket.
    #[error("{} is {what}", path.display())]
    Special {
        /// Which file.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// A name that would be a whiteout in a layer.
    #[error("{} has a name that means the removal of another file in a layer", .0.display())]
    Whiteout(PathBuf),
    /// A file that grew shorter while it was read.
    #[error("{} changed while it was read", .0.display())]
    Changed(PathBuf),
    /// Too many files, or too large.
    #[error("the directory has more than {entries} files, or more than {bytes} bytes in them")]
    Size {
        /// The bound on files.
        entries: u64,
        /// The bound on bytes.
        bytes: u64,
    },
}

impl PackError {
    /// What a person can do about it.
    #[must_use]
    pub const fn remedy(&self) -> &'static str {
        match self {
            Self::Read { .. } => "run this as a user who may read the whole directory",
            Self::Write(_) => "check the space and the permissions of the store's file system",
            Self::Special { .. } => {
                "remove it (an agent gets its own /dev), or import with --skip-special"
            }
            Self::Whiteout(_) => "rename or remove it",
            Self::Changed(_) => "import the directory while nothing writes to it",
            Self::Size { .. } => {
                "make it smaller: these limits keep one image from using up the host"
            }
        }
    }
}

/// Writes a directory as a tar archive; gives back the writer and how many special files were left
/// out.
///
/// # Errors
/// A file can't be read or put into a layer, or the writer fails.
pub fn pack<W: Write>(
    directory: BorrowedFd<'_>,
    output: W,
    limits: &Limits,
    specials: Specials,
) -> Result<(W, u64), PackError> {
    let stat = sys::fstat(directory).map_err(|error| read_error(b"", error))?;
    let mut packer = Packer {
        builder: Builder::new(output),
        device: stat.st_dev,
        links: HashMap::new(),
        limits: *limits,
        specials,
        skipped: 0,
        entries: 0,
        bytes: 0,
    };
    let header = header(&stat, EntryType::Directory, 0);
    packer.extensions(Some(directory), &stat, b"")?;
    packer.append(header, b"./", io::empty())?;
    packer.directory(directory, &mut Vec::new())?;
    let skipped = packer.skipped;
    packer.builder.into_inner().map(|output| (output, skipped)).map_err(PackError::Write)
}

struct Packer<W: Write> {
    builder: Builder<W>,
    /// The file system; others are not entered.
    device: u64,
    /// Where a file of several names was written first.
    links: HashMap<u64, Vec<u8>>,
    limits: Limits,
    specials: Specials,
    skipped: u64,
    entries: u64,
    bytes: u64,
}

impl<W: Write> Packer<W> {
    fn directory(
        &mut self,
        directory: BorrowedFd<'_>,
        path: &mut Vec<u8>,
    ) -> Result<(), PackError> {
        for name in list(directory).map_err(|error| read_error(path, error))? {
            let length = path.len();
            if length > 0 {
                path.push(b'/');
            }
            path.extend_from_slice(&name);
            if name.starts_with(b".wh.") {
                return Err(PackError::Whiteout(shown(path)));
            }
            self.entries += 1;
            self.check_size()?;
            self.one(directory, &name, path)?;
            path.truncate(length);
        }
        Ok(())
    }

    fn one(
        &mut self,
        directory: BorrowedFd<'_>,
        name: &[u8],
        path: &mut Vec<u8>,
    ) -> Result<(), PackError> {
        let stat = sys::statat(directory, name, sys::AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|error| read_error(path, error))?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind != FileType::Directory
            && stat.st_nlink > 1
            && let Some(first) = self.links.get(&stat.st_ino).cloned()
        {
            return self.link(header(&stat, EntryType::Link, 0), path, &first);
        }
        match kind {
            FileType::Directory => {
                let inner = open(directory, name, OFlags::DIRECTORY, path)?;
                self.extensions(Some(inner.as_fd()), &stat, path)?;
                let mut own = path.clone();
                own.push(b'/');
                self.append(header(&stat, EntryType::Directory, 0), &own, io::empty())?;
                if stat.st_dev == self.device {
                    self.directory(inner.as_fd(), path)?;
                }
            }
            FileType::Symlink => {
                let target = sys::readlinkat(directory, name, Vec::new())
                    .map_err(|error| read_error(path, error))?;
                self.remember(&stat, path);
                self.extensions(None, &stat, path)?;
                self.link(header(&stat, EntryType::Symlink, 0), path, target.as_bytes())?;
            }
            FileType::RegularFile => self.file(directory, name, path)?,
            _ if self.specials == Specials::Skip => self.skipped += 1,
            other => return Err(PackError::Special { path: shown(path), what: special(other) }),
        }
        Ok(())
    }

    fn file(
        &mut self,
        directory: BorrowedFd<'_>,
        name: &[u8],
        path: &[u8],
    ) -> Result<(), PackError> {
        // Not to wait for a FIFO that took the file's place.
        let file = open(directory, name, OFlags::NONBLOCK, path)?;
        let stat = sys::fstat(&file).map_err(|error| read_error(path, error))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(PackError::Changed(shown(path)));
        }
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        self.bytes = self.bytes.saturating_add(size);
        self.check_size()?;
        self.remember(&stat, path);
        self.extensions(Some(file.as_fd()), &stat, path)?;
        let mut content = File::from(file).take(size);
        self.append(header(&stat, EntryType::Regular, size), path, &mut content)?;
        // The builder writes what it gets; the header has promised `size`.
        if content.limit() > 0 { Err(PackError::Changed(shown(path))) } else { Ok(()) }
    }

    fn remember(&mut self, stat: &Stat, path: &[u8]) {
        if stat.st_nlink > 1 {
            self.links.insert(stat.st_ino, path.to_vec());
        }
    }

    /// What a header can't hold: attributes, and parts of a second.
    fn extensions(
        &mut self,
        file: Option<BorrowedFd<'_>>,
        stat: &Stat,
        path: &[u8],
    ) -> Result<(), PackError> {
        let mut records: Vec<(String, Vec<u8>)> = Vec::new();
        if stat.st_mtime_nsec != 0 && stat.st_mtime >= 0 {
            let time = format!("{}.{:09}", stat.st_mtime, stat.st_mtime_nsec);
            records.push(("mtime".to_owned(), time.into_bytes()));
        }
        if let Some(file) = file {
            add_xattrs(&mut records, file, path)?;
        }
        if records.is_empty() {
            return Ok(());
        }
        let records = records.iter().map(|(key, value)| (key.as_str(), value.as_slice()));
        self.builder.append_pax_extensions(records).map_err(PackError::Write)
    }

    fn append(
        &mut self,
        mut header: Header,
        path: &[u8],
        content: impl io::Read,
    ) -> Result<(), PackError> {
        let path = OsStr::from_bytes(path);
        self.builder.append_data(&mut header, path, content).map_err(PackError::Write)
    }

    fn link(&mut self, mut header: Header, path: &[u8], target: &[u8]) -> Result<(), PackError> {
        self.builder
            .append_link(&mut header, OsStr::from_bytes(path), OsStr::from_bytes(target))
            .map_err(PackError::Write)
    }

    fn check_size(&self) -> Result<(), PackError> {
        let Limits { entries, bytes, .. } = self.limits;
        if self.entries > entries || self.bytes > bytes {
            return Err(PackError::Size { entries, bytes });
        }
        Ok(())
    }
}

/// The attributes that an image may have, in the order of their names.
fn add_xattrs(
    records: &mut Vec<(String, Vec<u8>)>,
    file: BorrowedFd<'_>,
    path: &[u8],
) -> Result<(), PackError> {
    let mut names = vec![0; MAX_XATTR_LIST];
    let length = match sys::flistxattr(file, names.as_mut_slice()) {
        Ok(length) => length,
        Err(Errno::NOTSUP) => 0,
        Err(error) => return Err(read_error(path, error)),
    };
    names.truncate(length);
    let mut names: Vec<&[u8]> = names.split(|byte| *byte == 0).collect();
    names.sort_unstable();
    for name in names.into_iter().filter(|name| attributes::is_kept(name)) {
        let mut value = vec![0; MAX_XATTR_VALUE];
        let length = sys::fgetxattr(file, name, value.as_mut_slice())
            .map_err(|error| read_error(path, error))?;
        value.truncate(length);
        // A name that is not UTF-8 has no place in a pax header.
        let Ok(name) = std::str::from_utf8(name) else { continue };
        records.push((format!("SCHILY.xattr.{name}"), value));
    }
    Ok(())
}

fn header(stat: &Stat, kind: EntryType, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(stat.st_mode & 0o7777);
    header.set_uid(u64::from(stat.st_uid));
    header.set_gid(u64::from(stat.st_gid));
    header.set_mtime(u64::try_from(stat.st_mtime).unwrap_or(0));
    header.set_size(size);
    header
}

fn open(
    directory: BorrowedFd<'_>,
    name: &[u8],
    flags: OFlags,
    path: &[u8],
) -> Result<OwnedFd, PackError> {
    let flags = flags | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    sys::openat(directory, name, flags, Mode::empty()).map_err(|error| read_error(path, error))
}

const fn special(kind: FileType) -> &'static str {
    match kind {
        FileType::CharacterDevice => "a character device",
        FileType::BlockDevice => "a block device",
        FileType::Fifo => "a FIFO",
        FileType::Socket => "a socket",
        _ => "of an unknown type",
    }
}

fn shown(path: &[u8]) -> PathBuf {
    PathBuf::from(crate::text::printable_line(&String::from_utf8_lossy(path)))
}

fn read_error(path: &[u8], error: impl Into<io::Error>) -> PackError {
    let path = if path.is_empty() { b"." } else { path };
    PackError::Read { path: shown(path), source: error.into() }
}
