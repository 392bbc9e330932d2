//! Copies files out of a container or into one, as a tar stream. Runs in a process of its own that
//! has entered the container and has a user's rights there, so it can reach what that user can.
//!
//! The archive is hostile on its way in, the container on its way out: directories are opened one
//! below the other by descriptor, no link is followed, and only files, directories and links are
//! copied. Memory is bounded by the agent's group, which the process is in.

use std::io::{Error, Read, Result, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use cloister_protocol::agent::Direction;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Timespec, Timestamps};
use rustix::io::Errno;
use tar::{Archive, Builder, EntryType, Header};

/// Directories within directories that are copied: bounds the descriptors and the stack.
const MAX_DEPTH: usize = 256;

/// What a mode may say: no set-id bits, no sticky bit.
const MODE: u32 = 0o777;

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// Below a directory, however it is named, by no link.
const BELOW: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS);

/// What is copied, found and opened.
pub(crate) enum Work {
    Out { parent: OwnedFd, name: PathBuf },
    In { directory: OwnedFd },
}

/// Finds the path, links in it included: it is the host's word, within the container.
///
/// # Errors
/// The system's, for the path as a whole.
pub(crate) fn open(direction: &Direction) -> rustix::io::Result<Work> {
    use std::os::unix::ffi::OsStrExt;
    let path = |bytes: &[u8]| PathBuf::from(std::ffi::OsStr::from_bytes(bytes));
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match direction {
        Direction::In(target) => {
            let directory = rustix::fs::open(path(target), flags, Mode::empty())?;
            Ok(Work::In { directory })
        }
        Direction::Out(source) => {
            let source = path(source);
            let name = source.file_name().map_or_else(|| PathBuf::from("."), PathBuf::from);
            let above = source.parent().unwrap_or(Path::new("/"));
            let parent = rustix::fs::open(above, flags, Mode::empty())?;
            rustix::fs::statat(&parent, &name, AtFlags::SYMLINK_NOFOLLOW)?;
            Ok(Work::Out { parent, name })
        }
    }
}

/// Copies it all, from standard input or to standard output.
pub(crate) fn run(work: Work) -> Result<()> {
    match work {
        Work::Out { parent, name } => {
            let mut archive = Builder::new(Standard(rustix::stdio::stdout()));
            if let Err(error) = put(&mut archive, parent.as_fd(), &name, &name, MAX_DEPTH) {
                // It would write the archive's end, which says that all of it is there.
                std::mem::forget(archive);
                return Err(error);
            }
            archive.into_inner()?.flush()
        }
        Work::In { directory } => {
            let mut input = Standard(rustix::stdio::stdin());
            let mut archive = Archive::new(&mut input);
            for entry in archive.entries()? {
                take(entry?, directory.as_fd())?;
            }
            // To its very end, so that the sender can send it.
            std::io::copy(&mut input, &mut std::io::sink()).map(drop)
        }
    }
}

/// A standard stream without a buffer.
struct Standard(BorrowedFd<'static>);

impl Read for Standard {
    fn read(&mut self, bytes: &mut [u8]) -> Result<usize> {
        Ok(rustix::io::retry_on_intr(|| rustix::io::read(self.0, &mut *bytes))?)
    }
}

impl Write for Standard {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        Ok(rustix::io::retry_on_intr(|| rustix::io::write(self.0, bytes))?)
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

/// Puts an entry and what is below it into the archive. What vanishes meanwhile is left out.
fn put(
    archive: &mut Builder<Standard>,
    parent: BorrowedFd<'_>,
    name: &Path,
    path: &Path,
    depth: usize,
) -> Result<()> {
    let stat = match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(()),
        result => result?,
    };
    let mut header = Header::new_gnu();
    header.set_mode(stat.st_mode & MODE);
    header.set_uid(stat.st_uid.into());
    header.set_gid(stat.st_gid.into());
    header.set_mtime(stat.st_mtime.try_into().unwrap_or(0));
    header.set_size(0);
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => {
            let Some(depth) = depth.checked_sub(1) else { return Err(Errno::NAMETOOLONG.into()) };
            let directory = rustix::fs::openat(parent, name, DIRECTORY, Mode::empty())?;
            header.set_entry_type(EntryType::Directory);
            archive.append_data(&mut header, path, std::io::empty())?;
            put_all(archive, directory.as_fd(), path, depth)
        }
        FileType::Symlink => {
            use std::os::unix::ffi::OsStrExt;
            let target = rustix::fs::readlinkat(parent, name, Vec::new())?;
            header.set_entry_type(EntryType::Symlink);
            let target = Path::new(std::ffi::OsStr::from_bytes(target.to_bytes()));
            archive.append_link(&mut header, path, target)
        }
        FileType::RegularFile => {
            // Should a pipe have taken its place, it is not waited for.
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let file = rustix::fs::openat(parent, name, flags, Mode::empty())?;
            let stat = rustix::fs::fstat(&file)?;
            if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
                return Ok(());
            }
            let size = u64::try_from(stat.st_size).unwrap_or(0);
            header.set_entry_type(EntryType::Regular);
            header.set_size(size);
            // As long as was said, though the file may shrink or grow.
            let bytes = std::fs::File::from(file).chain(std::io::repeat(0)).take(size);
            archive.append_data(&mut header, path, bytes)
        }
        // Devices, pipes and sockets mean nothing elsewhere.
        _ => Ok(()),
    }
}

fn put_all(
    archive: &mut Builder<Standard>,
    directory: BorrowedFd<'_>,
    path: &Path,
    depth: usize,
) -> Result<()> {
    use std::os::unix::ffi::OsStrExt;
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if !matches!(name, b"." | b"..") {
            let name = Path::new(std::ffi::OsStr::from_bytes(name));
            put(archive, directory, name, &path.join(name), depth)?;
        }
    }
    Ok(())
}

/// Makes one entry of an archive below a directory.
fn take(mut entry: tar::Entry<'_, impl Read>, directory: BorrowedFd<'_>) -> Result<()> {
    let path = entry.path()?.into_owned();
    let Some(path) = plain(&path)? else { return Ok(()) };
    let name = path.file_name().ok_or(Errno::INVAL)?;
    let above = path.parent().filter(|above| !above.as_os_str().is_empty());
    let parent = match above {
        None => rustix::fs::openat(directory, c".", DIRECTORY, Mode::empty())?,
        Some(above) => open_or_make(directory, above)?,
    };
    let mode = Mode::from_raw_mode(entry.header().mode()? & MODE);
    match entry.header().entry_type() {
        EntryType::Directory => {
            make_directory(parent.as_fd(), Path::new(name))?;
            let made = rustix::fs::openat(&parent, name, DIRECTORY, Mode::empty())?;
            Ok(rustix::fs::fchmod(made, mode)?)
        }
        EntryType::Symlink => {
            let target = entry.link_name()?.ok_or(Errno::INVAL)?.into_owned();
            make_way(parent.as_fd(), Path::new(name))?;
            Ok(rustix::fs::symlinkat(target, &parent, name)?)
        }
        EntryType::Link => {
            let target = entry.link_name()?.ok_or(Errno::INVAL)?.into_owned();
            let target = plain(&target)?.ok_or(Errno::INVAL)?;
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            // That it is there, and below.
            drop(rustix::fs::openat2(directory, &target, flags, Mode::empty(), BELOW)?);
            make_way(parent.as_fd(), Path::new(name))?;
            Ok(rustix::fs::linkat(directory, &target, &parent, name, AtFlags::empty())?)
        }
        EntryType::Regular | EntryType::Continuous => {
            make_way(parent.as_fd(), Path::new(name))?;
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
            let file = rustix::fs::openat(&parent, name, flags, Mode::from_raw_mode(0o600))?;
            let mut file = std::fs::File::from(file);
            std::io::copy(&mut entry, &mut file)?;
            rustix::fs::fchmod(&file, mode)?;
            let seconds = entry.header().mtime()?.try_into().unwrap_or(0);
            let time = Timespec { tv_sec: seconds, tv_nsec: 0 };
            let times = Timestamps { last_access: time, last_modification: time };
            Ok(rustix::fs::futimens(&file, &times)?)
        }
        _ => Ok(()),
    }
}

/// A path without `.`; `None` if nothing is left, an error if it leads elsewhere.
fn plain(path: &Path) -> Result<Option<PathBuf>> {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => plain.push(name),
            Component::CurDir => {}
            Component::RootDir | Component::ParentDir | Component::Prefix(_) => {
                return Err(Error::from(Errno::XDEV));
            }
        }
    }
    Ok((!plain.as_os_str().is_empty()).then_some(plain))
}

fn open_or_make(directory: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd> {
    let mut at = rustix::fs::openat(directory, c".", DIRECTORY, Mode::empty())?;
    for part in path.components() {
        let name = Path::new(part.as_os_str());
        at = match rustix::fs::openat(&at, name, DIRECTORY, Mode::empty()) {
            Err(Errno::NOENT) => {
                make_directory(at.as_fd(), name)?;
                rustix::fs::openat(&at, name, DIRECTORY, Mode::empty())?
            }
            result => result?,
        };
    }
    Ok(at)
}

fn make_directory(parent: BorrowedFd<'_>, name: &Path) -> Result<()> {
    match rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755)) {
        // What else has the name shows when it is opened.
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Takes away what has the name now, unless it is a directory.
fn make_way(parent: BorrowedFd<'_>, name: &Path) -> Result<()> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
