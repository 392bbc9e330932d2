//! Files between the host and an agent's container, as tar streams.
//!
//! What comes out of a container is hostile: it is read by the images' tar reader, made below a
//! scratch directory by descriptors alone, bounded, and renamed into place as a whole.

pub mod unpack;

use std::ffi::{OsStr, OsString};
use std::io::{self, Write as _};
use std::net::Shutdown;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cloister_protocol::agent::{Direction, User};
use cloister_protocol::message::ExitStatus;
use rustix::fs::{self as sys, CWD, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use crate::images::archive::fault::{Fault, LayerError};
use crate::images::archive::tree::remove_all;
use crate::machine::{CopySpec, ExecError, Machine, MachineError, Streams};
use crate::report::tell_line;

/// How long a copy may take that nobody watches: a guest that trickles must not keep a team from ending.
pub const COPY_LIMIT: Duration = Duration::from_secs(600);
/// What the names of scratch directories begin with.
const SCRATCH: &str = ".cloister-copy-";

/// Why files were not copied.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// The container's side could not be started.
    #[error(transparent)]
    Start(#[from] ExecError),
    /// The machine ended.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// The container's side failed.
    #[error("can't copy {0} out of the container: is it there, and may the agent read it?")]
    Container(String),
    /// What came is no archive that may be unpacked.
    #[error("what the container sent can't be taken")]
    Archive(#[source] LayerError),
    /// It took too long.
    #[error("the copy was not done within {} minutes", COPY_LIMIT.as_secs() / 60)]
    TimedOut,
    /// Nothing came.
    #[error("the container sent no file")]
    Nothing,
    /// The host's file system refuses.
    #[error("can't {what} {}", path.display())]
    Host {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl TransferError {
    /// Of a copy to `to`: the host's file system is no fault of the archive.
    fn of(error: LayerError, to: &Path) -> Self {
        match error.fault {
            Fault::Store { what, source } => Self::Host { what, path: to.to_owned(), source },
            fault => Self::Archive(LayerError { fault, ..error }),
        }
    }

    /// What a person can do about it.
    #[must_use]
    pub fn remedy(&self) -> Option<&'static str> {
        match self {
            Self::Host { .. } => Some("check the path's permissions and the space of its disk"),
            Self::Archive(error) => Some(error.fault.remedy()),
            _ => None,
        }
    }
}

/// Copies a file or directory of a container to `to`, in place of a file that is there. The
/// directory of `to` must be there.
///
/// # Errors
/// It is not there, is not what may be copied, or a file system refuses; `to` is as it was then.
pub async fn copy_out(
    machine: &Machine,
    agent: u32,
    user: User,
    path: &[u8],
    to: &Path,
) -> Result<(), TransferError> {
    let direction = Direction::Out(path.to_vec());
    let mut command = machine.copy(CopySpec { agent, user, direction }).await?;
    let Some(Streams::Terminal(stream)) = command.take_streams() else {
        return Err(TransferError::Nothing);
    };
    let target = to.to_owned();
    let wrap = |source| TransferError::Host { what: "receive for", path: to.to_owned(), source };
    let handle = stream.try_clone().map_err(wrap)?;
    // Blocks on the stream and the disk.
    let unpacked = run_thread(move || receive(&stream, &target));
    let both = async { tokio::join!(unpacked, command.wait()) };
    let Ok((unpacked, status)) = tokio::time::timeout(COPY_LIMIT, both).await else {
        // Ends the thread's wait, and the container's side.
        handle.shutdown(Shutdown::Both).ok();
        return Err(TransferError::TimedOut);
    };
    // What the guest could not read is told before what then did not arrive.
    if status? != ExitStatus::Code(0) {
        return Err(TransferError::Container(crate::text::printable_line(
            &String::from_utf8_lossy(path),
        )));
    }
    unpacked
}

async fn run_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, TransferError> + Send + 'static,
) -> Result<T, TransferError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(_) => Err(TransferError::Nothing),
    }
}

/// Unpacks an archive with one top entry and puts that at `to`.
///
/// # Errors
/// The archive is wrong or a file system refuses; `to` is as it was then.
pub fn receive(stream: &UnixStream, to: &Path) -> Result<(), TransferError> {
    let scratch = Scratch::beside(to)?;
    let top = unpack::unpack(stream, scratch.directory()?);
    // The other side shall not wait for somebody who has given up.
    stream.shutdown(Shutdown::Both).ok();
    let top = top.map_err(|error| TransferError::of(error, to))?.ok_or(TransferError::Nothing)?;
    scratch.put(&top, to)
}

/// Sends a file or directory of the host as an archive whose top entry is called `name`.
///
/// # Errors
/// It can't be read, or the other side has gone.
pub fn send(from: &Path, name: &OsStr, stream: &UnixStream) -> Result<(), TransferError> {
    let wrap = |source| TransferError::Host { what: "copy", path: from.to_owned(), source };
    let metadata = from.symlink_metadata().map_err(wrap)?;
    let mut builder = tar::Builder::new(io::BufWriter::new(stream));
    builder.follow_symlinks(false);
    let added = if metadata.is_dir() {
        builder.append_dir_all(name, from)
    } else {
        builder.append_path_with_name(from, name)
    };
    added
        .and_then(|()| builder.into_inner())
        .and_then(|mut writer| writer.flush())
        .map_err(wrap)?;
    stream.shutdown(Shutdown::Write).ok();
    Ok(())
}

/// A directory that goes when it is dropped. Its maker holds a lock on it, so what a killed one left is
/// known by its free lock, and removed by the next copy to the same place.
#[derive(Debug)]
struct Scratch {
    parent: PathBuf,
    name: OsString,
    directory: OwnedFd,
}

impl Scratch {
    /// Beside `to`, so that a rename takes what is in it there.
    fn beside(to: &Path) -> Result<Self, TransferError> {
        let parent = match to.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        sweep(&parent);
        loop {
            let name = OsString::from(format!("{SCRATCH}{}-{}", std::process::id(), unique()));
            let path = parent.join(&name);
            let host = |what, path: &Path, error: Errno| TransferError::Host {
                what,
                path: path.to_owned(),
                source: error.into(),
            };
            sys::mkdirat(CWD, &path, Mode::RWXU).map_err(|error| host("make", &path, error))?;
            // Gone, or another's lock: a sweep came between.
            let Some(directory) = lock(&path).map_err(|error| host("lock", &path, error))? else {
                continue;
            };
            if sys::access(&path, sys::Access::EXISTS).is_ok() {
                return Ok(Self { parent, name, directory });
            }
        }
    }

    fn path(&self) -> PathBuf {
        self.parent.join(&self.name)
    }

    fn directory(&self) -> Result<OwnedFd, TransferError> {
        self.directory.try_clone().map_err(|error| self.host("open", error))
    }

    fn host(&self, what: &'static str, source: io::Error) -> TransferError {
        TransferError::Host { what, path: self.path(), source }
    }

    /// Moves its entry `top` to `to`. A directory takes the place of a directory that was copied
    /// before; nothing else is replaced by one.
    fn put(&self, top: &OsStr, to: &Path) -> Result<(), TransferError> {
        let wrap =
            |source| TransferError::Host { what: "put in place", path: to.to_owned(), source };
        let from = self.path().join(top);
        if from.is_dir() && to.is_dir() {
            // The two change places in one step, and what was there goes with the scratch directory.
            let flags = sys::RenameFlags::EXCHANGE;
            return sys::renameat_with(CWD, &from, CWD, to, flags)
                .map_err(|error| wrap(error.into()));
        }
        std::fs::rename(&from, to).map_err(wrap)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        remove(&self.parent, &self.name);
    }
}

fn remove(parent: &Path, name: &OsStr) {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    if let Ok(parent) = sys::openat(CWD, parent, flags, Mode::empty()) {
        // What can't be removed now is what the next copy removes.
        remove_all(parent.as_fd(), name).ok();
    }
}

/// Opens a scratch directory and takes its lock; `None`: somebody else has it, or it is gone.
fn lock(path: &Path) -> Result<Option<OwnedFd>, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = match sys::openat(CWD, path, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(None),
        opened => opened?,
    };
    match sys::flock(&directory, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => Ok(None),
        locked => locked.map(|()| Some(directory)),
    }
}

/// Removes what killed copies have left beside a target, and says so.
fn sweep(parent: &Path) {
    for entry in std::fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name();
        if !name.as_encoded_bytes().starts_with(SCRATCH.as_bytes()) {
            continue;
        }
        // Another user's, or a file of that name, is not ours to remove.
        if let Ok(Some(_locked)) = lock(&entry.path()) {
            remove(parent, &name);
            let place = entry.path();
            tell_line(format_args!(
                "cloister: removed what a killed copy had left: {}",
                place.display()
            ));
        }
    }
}

fn unique() -> u64 {
    use std::sync::atomic::{AtomicU64, Ordering};
    static COUNT: AtomicU64 = AtomicU64::new(0);
    COUNT.fetch_add(1, Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pass(from: &Path, name: &str, to: &Path) -> Result<(), TransferError> {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (from, name) = (from.to_owned(), OsString::from(name));
        let sender = std::thread::spawn(move || send(&from, &name, &theirs));
        let received = receive(&ours, to);
        sender.join().unwrap().unwrap();
        received
    }

    #[test]
    fn a_tree_arrives_and_replaces_the_one_before() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        std::fs::create_dir_all(from.join("a/b")).unwrap();
        std::fs::write(from.join("a/b/file"), "text").unwrap();
        std::os::unix::fs::symlink("b/file", from.join("a/link")).unwrap();
        pass(&from, "top", &to).unwrap();
        assert_eq!(std::fs::read_to_string(to.join("a/link")).unwrap(), "text");
        std::fs::remove_dir_all(from.join("a")).unwrap();
        std::fs::write(from.join("new"), "").unwrap();
        pass(&from, "top", &to).unwrap();
        assert!(to.join("new").exists() && !to.join("a").exists());
        // Nothing else is left.
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[test]
    fn what_a_killed_copy_left_goes_with_the_next_and_a_running_ones_stays() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        std::fs::write(&from, "new").unwrap();
        let left = folder.path().join(format!("{SCRATCH}1-1"));
        std::fs::create_dir_all(left.join("deep")).unwrap();
        let running = Scratch::beside(&to).unwrap();
        assert!(!left.exists());
        pass(&from, "x", &to).unwrap();
        assert!(running.path().exists());
        drop(running);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_file_arrives_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        std::fs::write(&to, "old").unwrap();
        std::fs::write(&from, "new").unwrap();
        pass(&from, "x", &to).unwrap();
        assert_eq!(std::fs::read_to_string(&to).unwrap(), "new");
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(&[7; 700]).unwrap();
        drop(theirs);
        assert!(matches!(receive(&ours, &to), Err(TransferError::Archive(_))));
        assert_eq!(std::fs::read_to_string(&to).unwrap(), "new");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
    }
}
