//! Small files in a directory that is known by its descriptor: read within a bound, replaced whole.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{self as sys, FlockOperation, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// Locks a file, waiting if somebody else has it. The file systems of some other machines have locks
/// and can't wait for them; there it is an error only if there is something to wait for.
///
/// # Errors
/// The file system refuses.
pub(crate) fn lock(file: impl AsFd, alone: bool) -> rustix::io::Result<()> {
    let (now, waiting) = if alone {
        (FlockOperation::NonBlockingLockExclusive, FlockOperation::LockExclusive)
    } else {
        (FlockOperation::NonBlockingLockShared, FlockOperation::LockShared)
    };
    match sys::flock(&file, now) {
        Err(Errno::WOULDBLOCK) => sys::flock(file, waiting),
        done => done,
    }
}

/// Opens a regular file below a directory; the way to it leads through no link.
///
/// # Errors
/// It is not there, is no regular file, or the way leads elsewhere.
pub(crate) fn open_below(directory: impl AsFd, path: &str) -> io::Result<File> {
    // Not to wait for the writer of a FIFO.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let inside = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let file = File::from(sys::openat2(directory, path, flags, Mode::empty(), inside)?);
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
    }
    Ok(file)
}

/// Opens a regular file by its path, through links too.
///
/// # Errors
/// It can't be opened, or is no regular file.
pub(crate) fn open_regular(path: &Path) -> io::Result<File> {
    // Not to wait for the writer of a FIFO.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = File::from(sys::open(path, flags, Mode::empty())?);
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
    }
    Ok(file)
}

/// Puts a small file of this user's alone into a directory: whole or not at all, in place of what is there. One at a
/// time, so that its scratch file has one name, and what a killed one left is overwritten.
///
/// # Errors
/// The file system refuses.
pub(crate) fn put(folder: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    put_held(&hold(folder)?, folder, name, bytes)
}

/// The same, by whoever has the directory already ([`hold`]).
///
/// # Errors
/// The file system refuses.
pub(crate) fn put_held(held: &File, folder: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    write_and_rename(folder, name, bytes)?;
    held.sync_all()
}

/// The same, unless the file is there: of two that make one at once, the first wins.
///
/// # Errors
/// The file system refuses.
pub(crate) fn put_new(folder: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let held = hold(folder)?;
    if !folder.join(name).exists() {
        write_and_rename(folder, name, bytes)?;
    }
    held.sync_all()
}

/// Keeps others from putting files into a directory, until it is dropped.
///
/// # Errors
/// The file system refuses.
pub(crate) fn hold(folder: &Path) -> io::Result<File> {
    let held = File::open(folder)?;
    lock(&held, true)?;
    Ok(held)
}

fn write_and_rename(folder: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let scratch = folder.join(format!("{name}.new"));
    match std::fs::remove_file(&scratch) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(&scratch)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&scratch, folder.join(name))
}

/// Reads a file of at most `most` bytes.
///
/// # Errors
/// It can't be read, or is larger ([`io::ErrorKind::FileTooLarge`]).
pub(crate) fn read_at(directory: &OwnedFd, name: &str, most: u64) -> io::Result<Vec<u8>> {
    read_bounded(open_below(directory, name)?, most)
}

/// Reads at most `most` bytes to the end.
///
/// # Errors
/// It can't be read, or there are more ([`io::ErrorKind::FileTooLarge`]).
pub(crate) fn read_bounded(input: impl io::Read, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    input.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("it has more than {most} bytes"),
        ));
    }
    Ok(bytes)
}

/// Replaces a file as a whole, by way of a scratch file in `scratch`: after a crash it is the old one
/// or the new one.
///
/// # Errors
/// The file system refuses.
pub(crate) fn replace_at(
    scratch: &OwnedFd,
    directory: &OwnedFd,
    name: &str,
    bytes: &[u8],
) -> io::Result<()> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let temporary = format!("{name}.{}.{number}", std::process::id());
    let flags =
        OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mode = Mode::from_raw_mode(0o600);
    let mut file = File::from(sys::openat(scratch, temporary.as_str(), flags, mode)?);
    file.write_all(bytes)?;
    file.sync_all()?;
    sys::renameat(scratch, temporary.as_str(), directory, name)?;
    sys::fsync(directory)?;
    Ok(())
}
